"""Strategies, batches, checkpoints and the training loop."""
