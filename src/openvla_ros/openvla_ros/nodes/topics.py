"""Looking at the ROS graph: is anybody publishing what a node needs, and if not, what is there instead?"""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.qos import ReliabilityPolicy


def type_name(message: type) -> str:
    """`sensor_msgs/msg/Image` of a message class."""
    package, folder = message.__module__.split(".")[:2]
    return f"{package}/{folder}/{message.__name__}"


def wait_for_publisher(node: Node, message: type, topic: str, timeout: float, parameter: str) -> bool:
    """Wait until `topic` is published with the right type; whether all its publishers are reliable.

    Raises TimeoutError after `timeout` [s], naming the topic and the topics of that type that do exist.
    """
    name, kind = node.resolve_topic_name(topic), type_name(message)
    deadline = time.monotonic() + timeout
    while True:
        publishers = node.get_publishers_info_by_topic(name)
        matching = [p for p in publishers if p.topic_type == kind]
        if matching:
            return all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in matching)
        if time.monotonic() >= deadline:
            break
        time.sleep(0.05)
    if publishers:
        raise TimeoutError(
            f"topic '{name}' carries {publishers[0].topic_type}, not {kind}; set parameter '{parameter}'"
        )
    there = sorted(n for n, types in node.get_topic_names_and_types() if kind in types and node.count_publishers(n))
    others = f"published topics of this type: {', '.join(there)}" if there else "no topic of this type is published"
    raise TimeoutError(
        f"nobody publishes {kind} on '{name}' (waited {timeout:g} s); {others}; start the camera or set '{parameter}'"
    )
