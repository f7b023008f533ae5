"""The physics simulator behind the same topics as a real robot. Knows no ROS."""
