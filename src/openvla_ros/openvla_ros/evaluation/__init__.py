"""Trials over ROS: demo, collection of demonstrations, the session that runs episodes."""
