"""The bridge node: safety gate, motion core and robot adapter between the sources of actions and the arm.

`bridge_node` holds clocks, topics and services and applies the core's commands; `robot_interface` carries out what the
adapter describes; `stop_guard` is a process that outlives the bridge; `state_publisher` republishes the robot's state
on the stack's own topics; `static_tf` looks up a camera's orientation. May import `openvla_ros.control`, `robots`,
`safety` and `nodes.common`; no other node.
"""
