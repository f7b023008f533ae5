"""Looking at the ROS graph: is anybody publishing what a node needs, and if not, what is there instead?"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration, Infinite
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSProfile, ReliabilityPolicy, qos_check_compatible


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


class Mismatches:
    """Who is on a node's topics and cannot be heard, or cannot hear: another type, or a QoS that does not fit.

    rclpy would tell by two events an endpoint, each of which its executor asks about at every turn: a third of a
    bridge's time. To ask the graph once a second costs nothing, and it knows the other node's name.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._at: dict[tuple[bool, str], tuple[int, int, bool]] = {}  # endpoints there are and met, and whether judged

    def look(self) -> list[str]:
        """What to log now, each once. What is there at two looks in turn is judged: endpoints take time to meet."""
        publishers, subscriptions = list(self._node.publishers), list(self._node.subscriptions)
        return [
            *self._look(True, subscriptions, self._node.count_publishers, "get_publisher_count"),
            *self._look(False, publishers, self._node.count_subscribers, "get_subscription_count"),
        ]

    def _look(self, hears: bool, endpoints: Iterable[Any], count: Any, met_by: str) -> list[str]:
        topics: dict[str, list[Any]] = {}
        for endpoint in endpoints:
            topics.setdefault(endpoint.topic_name, []).append(endpoint)
        said = []
        for topic, mine in topics.items():
            there, met = count(topic), max(getattr(endpoint, met_by)() for endpoint in mine)
            known, again = self._at.get((hears, topic), (0, 0, False)), False
            if there > met:
                again = known[:2] == (there, met)
                if again and not known[2]:
                    said += self._judge(hears, topic, mine)
            self._at[hears, topic] = (there, met, again)
        return said

    def _judge(self, hears: bool, topic: str, mine: list[Any]) -> list[str]:
        graph = self._node.get_publishers_info_by_topic if hears else self._node.get_subscriptions_info_by_topic
        said = []
        for other in graph(topic):
            why = [_misfit(hears, endpoint, other) for endpoint in mine]
            if all(why):  # (a topic may be heard by several subscriptions, so that every publisher fits one)
                name = f"{other.node_namespace.rstrip('/')}/{other.node_name}"
                what = "publishes on" if hears else "listens to"
                said.append(f"'{name}' {what} {topic} in vain: {why[0]}")
        return said


def _misfit(hears: bool, mine: Any, other: Any) -> str:
    """Why an endpoint of the graph and one of the node do not meet; '' when they do."""
    if (kind := type_name(mine.msg_type)) != other.topic_type:
        return f"it is {other.topic_type} there, {kind} here"
    here, there = _stated(mine.qos_profile), _stated(other.qos_profile)
    compatible, reason = qos_check_compatible(*((there, here) if hears else (here, there)))
    if compatible != QoSCompatibility.ERROR:
        return ""
    wrong = [part.removeprefix("ERROR: ") for part in reason.split(";") if part.startswith("ERROR: ")]
    return ", ".join(part[0].lower() + part[1:] for part in wrong)


def _stated(qos: QoSProfile) -> QoSProfile:
    """What two endpoints must agree on. The graph says infinite where an endpoint's own profile says nothing."""
    deadline, lease = (Duration() if d == Infinite else d for d in (qos.deadline, qos.liveliness_lease_duration))
    return QoSProfile(
        depth=1,
        reliability=qos.reliability,
        durability=qos.durability,
        liveliness=qos.liveliness,
        deadline=deadline,
        liveliness_lease_duration=lease,
    )
