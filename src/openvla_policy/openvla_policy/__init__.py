"""OpenVLA as a library: image and sentence in, seven-number robot action out. No ROS in here.

Layers, lowest first (import-linter holds them): `contract` and `model`, then `checkpoint`, then
`runtime`, then `serving`.
"""

__version__ = "0.1.0"
