"""Teleoperation: from the readings of a device to actions.

Pure: plain numbers, numpy and scipy; no ROS, no topics, and times are passed in.
"""
