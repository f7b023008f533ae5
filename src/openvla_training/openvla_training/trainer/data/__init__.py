"""From datasets to batches: flat frames of one machine, or a stream from a mixture of datasets."""
