"""Judging policies: tasks, which trial comes next, statistics and reports. May import openvla_policy; no ROS."""
