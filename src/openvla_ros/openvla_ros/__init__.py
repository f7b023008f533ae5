"""The OpenVLA policy on a robot: safety, robots, recording, simulation and the ROS 2 nodes."""
