"""From RLDS datasets to training batches.

Two sources serve the trainer behind one protocol (`source`): frames of this machine's datasets, memory-mapped, and a
weighted mixture streamed from disk. Imports openx and rlds of this package; knows no optimizer and no model code.
"""
