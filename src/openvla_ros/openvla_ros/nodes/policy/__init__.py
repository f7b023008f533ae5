"""The policy node: cameras and instruction in, action chunks out.

May import `nodes.common`, the pure packages and openvla_policy, but no other node. `backend` and `parameters` import no
ROS.
"""
