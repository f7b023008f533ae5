"""Open X-Embodiment: a registry of datasets, one row each; standardisation, mixtures, statistics, sample streams."""
