"""An episode on disk: its life cycle, its bag, message definitions and message loss.

Pure: imports rosbags and the standard library, no ROS.
"""
