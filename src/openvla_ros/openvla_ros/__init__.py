"""The OpenVLA policy on a robot: safety, control, robot adapters, teleoperation, recording, simulation, ROS 2 nodes.

The folders safety, control, robots, observation, teleop, recording and sim are free of ROS; nodes, bringup,
evaluation, console and apps may import rclpy. In this folder itself: what several of them share (geometry, parameter
tables, file lookup, provenance).
"""
