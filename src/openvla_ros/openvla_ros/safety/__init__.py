"""Whether the robot may move: the gate, and everything that it checks, as pure functions and frozen dataclasses.

`gate` is the state machine; `limits`, `zones`, `joint_limits` and `gripper_limits` bound actions and targets;
`watchdogs`, `permission` and `robot_state` check ages, the operator's permission and the robot's state;
`frozen_camera` keeps a policy from acting on a frozen image. May import `openvla_ros.geometry` only.
"""
