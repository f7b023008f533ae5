"""Open X-Embodiment: the registry with one row a dataset, standardisation, statistics and mixtures. May import rlds.

A row says where action, state, cameras and instruction stand in a dataset's steps, and what its numbers mean; the rest
follows from it.
"""
