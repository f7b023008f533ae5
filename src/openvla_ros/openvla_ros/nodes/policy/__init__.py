"""The policy node: cameras and instruction in, action chunks out."""
