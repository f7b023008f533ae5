"""rosbag2 recordings to episodes, and episodes to RLDS; needs no ROS installation."""
