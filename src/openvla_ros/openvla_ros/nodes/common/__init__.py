"""Shared by the nodes: lifecycle base, declaration of parameters, QoS, conversions of messages, checks of the graph.

May import the pure packages (geometry, safety, robots) and rclpy, but no node.
"""
