"""Checkpoint folders of Hugging Face, Prismatic and OpenVLA-OFT, read and written; tokenizers and LoRA adapters.

May import `model` and `contract`.
"""
