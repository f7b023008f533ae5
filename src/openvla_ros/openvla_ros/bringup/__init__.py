"""Bring-up of a stack: process table, launch description, supervisor, ROS domain, shared memory, windows.

May import nodes and everything below; not apps, evaluation or console. `process_table` and `launch_description` run in
`ros2 launch` under the system's Python, and import only the standard library and modules that need no other library.
"""
