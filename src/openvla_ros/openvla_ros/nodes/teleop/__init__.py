"""The teleoperation node: an operator's device in, action chunks out.

May import `nodes.common`, `teleop`, the other pure packages and the recorder's client and status text.
"""
