"""The network in plain torch: vision encoders, projector, language model, OpenVLA-OFT's heads; names and sizes.

Imports nothing else of this package.
"""
