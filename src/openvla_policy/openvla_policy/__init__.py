"""OpenVLA as a library: an image and a sentence in, a 7-DoF end-effector action out. Works without ROS.

Layers, lowest first (checked by import-linter): `contract` and `model`, then `checkpoint`, then `runtime`, then
`serving`. `command_line` and `suggestions` serve the command lines of all packages.
"""

__version__ = "0.1.0"
