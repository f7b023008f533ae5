"""Trials over ROS: the demo and evaluation, the collection of demonstrations, and the client that runs episodes.

`stack` starts the processes, `stack_client` talks to them, `episode_runner` runs one episode, `demo` and `collect` are
loops over it. May import bringup, nodes and openvla_evaluation (plans, statistics, reports); not apps or console.
"""
