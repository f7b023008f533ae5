"""Checkpoints on disk, in the Hugging Face folder layout the published models have."""
