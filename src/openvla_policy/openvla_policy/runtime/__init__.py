"""From a checkpoint to a policy: decoding, number formats, memory. `load.load_policy` is the entry.

May import `checkpoint`, `model` and `contract`.
"""
