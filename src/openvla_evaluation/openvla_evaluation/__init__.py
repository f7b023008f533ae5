"""Judging policies, without ROS: tasks, trial plans, statistics and reports.

`suites` describe tasks, `plan` turns an evaluation's settings into trials, `statistics` and `report` evaluate the
records of the episodes. The package knows no robot and no simulator; it may import openvla_policy.
"""
