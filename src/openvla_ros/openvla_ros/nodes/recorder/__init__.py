"""The recorder node: episodes to rosbag2 files.

May import `nodes.common`, `recording` and the other pure packages, but no other node. Teleoperation and
`openvla-record` use `client` and `status_text`.
"""
