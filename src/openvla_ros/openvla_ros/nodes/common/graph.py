"""Checks of the ROS graph: whether the topics that a node needs are published, and why endpoints do not match."""

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
    """Wait until a topic is published with the right type.

    Args:
        node: Node that needs the topic.
        message: Type of the messages.
        topic: Name, resolved in the node's namespace.
        timeout: Longest wait [s].
        parameter: Parameter that sets the topic, for the error message.

    Returns:
        Whether all its publishers are reliable.

    Raises:
        TimeoutError: The topic has no publisher of the type; lists the topics that have.
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
        f"no publisher of {kind} on '{name}' (waited {timeout:g} s); {others}; start the camera or set '{parameter}'"
    )


class Mismatches:
    """Endpoints of other nodes that do not match this node's: another type, or an incompatible QoS.

    rclpy reports them by two events an endpoint, which its executor polls at every turn: a third of the bridge's
    processor time. Reading the graph once a second costs nothing, and gives the name of the other node.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        # By direction and topic: endpoints in the graph, endpoints that match, and whether the difference was reported.
        self._counts: dict[tuple[bool, str], tuple[int, int, bool]] = {}

    def update(self) -> list[str]:
        """Warnings to log now, each once. A mismatch counts at its second sight, since discovery takes time."""
        publishers, subscriptions = list(self._node.publishers), list(self._node.subscriptions)
        return [
            *self._changes(True, subscriptions, self._node.count_publishers, "get_publisher_count"),
            *self._changes(False, publishers, self._node.count_subscribers, "get_subscription_count"),
        ]

    def _changes(self, receives: bool, endpoints: Iterable[Any], count: Any, matched: str) -> list[str]:
        topics: dict[str, list[Any]] = {}
        for endpoint in endpoints:
            topics.setdefault(endpoint.topic_name, []).append(endpoint)
        warnings = []
        for topic, mine in topics.items():
            present, matching = count(topic), max(getattr(endpoint, matched)() for endpoint in mine)
            known, again = self._counts.get((receives, topic), (0, 0, False)), False
            if present > matching:
                again = known[:2] == (present, matching)
                if again and not known[2]:
                    warnings += self._warnings(receives, topic, mine)
            self._counts[receives, topic] = (present, matching, again)
        return warnings

    def _warnings(self, receives: bool, topic: str, mine: list[Any]) -> list[str]:
        graph = self._node.get_publishers_info_by_topic if receives else self._node.get_subscriptions_info_by_topic
        warnings = []
        for other in graph(topic):
            reasons = [_incompatibility(receives, endpoint, other) for endpoint in mine]
            if all(reasons):  # a topic may have several subscriptions, so that every publisher matches one of them
                name = f"{other.node_namespace.rstrip('/')}/{other.node_name}"
                what = "messages of" if receives else "messages to"
                warnings.append(f"{what} '{name}' on {topic} are lost: {reasons[0]}")
        return warnings


def _incompatibility(receives: bool, mine: Any, other: Any) -> str:
    """Why an endpoint of the graph and one of the node do not match; '' when they do."""
    if (kind := type_name(mine.msg_type)) != other.topic_type:
        return f"it is {other.topic_type} there, {kind} here"
    here, there = _comparable(mine.qos_profile), _comparable(other.qos_profile)
    compatible, reason = qos_check_compatible(*((there, here) if receives else (here, there)))
    if compatible != QoSCompatibility.ERROR:
        return ""
    wrong = [part.removeprefix("ERROR: ") for part in reason.split(";") if part.startswith("ERROR: ")]
    return ", ".join(part[0].lower() + part[1:] for part in wrong)


def _comparable(qos: QoSProfile) -> QoSProfile:
    """The policies that two endpoints must agree on; the graph says infinite where a profile leaves one unset."""
    deadline, lease = (Duration() if d == Infinite else d for d in (qos.deadline, qos.liveliness_lease_duration))
    return QoSProfile(
        depth=1,
        reliability=qos.reliability,
        durability=qos.durability,
        liveliness=qos.liveliness,
        deadline=deadline,
        liveliness_lease_duration=lease,
    )
