"""What the recorder listens to: raw subscriptions with the type and the QoS that the publishers have."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

from openvla_ros.recording.cdr import header_stamp_ns
from openvla_ros.recording.message_definitions import Definitions, UnknownType
from openvla_ros.recording.message_loss import Losses


@dataclass
class Topic:
    """One subscribed topic.

    ``latched``: what a newcomer would still be sent, newest last; None where nothing is latched. ``connection``:
    its place in the open bag. ``newest`` and ``losses`` count for the episode. ``stamped``: a stream of
    measurements whose stamps show what is missing.
    """

    name: str
    msgtype: str
    qos: QoSProfile
    latched: deque[bytes] | None
    connection: Connection | None = None
    newest: bytes | None = None
    stamped: bool = False
    losses: Losses = field(default_factory=Losses)
    subscription: Any = field(default=None, repr=False)


class Topics:
    """Subscribes to the wanted topics as they appear; every message goes to ``receive(topic, raw)``."""

    def __init__(
        self,
        node: Node,
        wanted: Iterable[str],
        depth: int,
        definitions: Definitions,
        receive: Callable[[Topic, bytes], None],
    ) -> None:
        """``wanted``: names, resolved in the node's namespace; ``depth``: of each subscription's queue."""
        self.found: dict[str, Topic] = {}
        self._node = node
        self._wanted = {node.resolve_topic_name(name) for name in wanted}
        self._depth = depth
        self._definitions = definitions
        self._receive = receive
        self._warned: set[str] = set()

    def get(self, name: str, msgtype: str) -> Topic | None:
        """Return a topic by its relative name, if it is there with that type."""
        topic = self.found.get(self._node.resolve_topic_name(name))
        return topic if topic is not None and topic.msgtype == msgtype else None

    def missing(self, names: Iterable[str]) -> list[str]:
        """List those of the names that nobody has published on yet."""
        return [name for name in names if self._node.resolve_topic_name(name) not in self.found]

    def discover(self) -> list[Topic]:
        """Subscribe to what is there and was not before; returns it."""
        absent = self._wanted - self.found.keys()
        if not absent:
            return []
        new = [self._subscribe(name, types) for name, types in self._node.get_topic_names_and_types() if name in absent]
        return [topic for topic in new if topic is not None]

    def take_waiting(self) -> None:
        """Take what the middleware has received and the executor has not got round to."""
        for topic in self.found.values():
            subscription = topic.subscription
            with subscription.handle:
                while (taken := subscription.handle.take_message(subscription.msg_type, True)) is not None:
                    self._hand_on(topic, *taken)

    def close(self) -> None:
        """End all subscriptions."""
        for topic in self.found.values():
            self._node.destroy_subscription(topic.subscription)
        self.found.clear()

    def _subscribe(self, name: str, types: list[str]) -> Topic | None:
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return None
        if len(types) != 1:
            self._refuse(name, f"it has several types ({', '.join(types)})")
            return None
        try:
            message = message_class(types[0])
            fields = self._definitions.ensure(types[0]).fielddefs[types[0]][1]
        except (ImportError, AttributeError, UnknownType) as error:
            self._refuse(name, str(error))
            return None
        # As rosbag2 does: the strongest QoS that all its publishers offer.
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=self._depth,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        # Of static transforms every publisher's message is still valid, of other latched topics the newest.
        kept: deque[bytes] | None = deque(maxlen=100 if name.endswith("/tf_static") else 1) if latched else None
        # Our own messages are events, as a gripper's commands are: their silence is no loss.
        event = types[0].startswith("openvla_msgs/")
        stamped = not event and bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"
        topic = Topic(name, types[0], qos, kept, stamped=stamped)

        def receive(raw: bytes, info: dict[str, Any]) -> None:
            self._hand_on(topic, raw, info)

        # rclpy gives the message's info to a callback that takes two arguments, which its annotations do not say.
        callback: Any = receive
        topic.subscription = self._node.create_subscription(message, name, callback, qos, raw=True)
        self.found[name] = topic
        return topic

    def _hand_on(self, topic: Topic, raw: bytes, info: dict[str, Any]) -> None:
        # The publisher's own count shows what got lost on the way; of several publishers the counts would mix.
        alone = topic.subscription is not None and topic.subscription.get_publisher_count() == 1
        stamp_ns = header_stamp_ns(raw) if topic.stamped else None
        topic.losses.arrived(info["publication_sequence_number"] if alone else None, stamp_ns)
        if topic.latched is not None:
            topic.latched.append(raw)
        self._receive(topic, raw)

    def _refuse(self, name: str, reason: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._node.get_logger().warning(f"topic {name} is not recorded: {reason}")


def message_class(msgtype: str) -> type:
    """Return the Python class of ``package/msg/Name``."""
    package, kind, name = msgtype.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), name)


def bag_qos(qos: QoSProfile) -> Qos:
    """Put a QoS in rosbags' words, so that a replay can offer the same."""
    forever = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=QosReliability[qos.reliability.name],
        durability=QosDurability[qos.durability.name],
        deadline=forever,
        lifespan=forever,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=forever,
        avoid_ros_namespace_conventions=False,
    )
