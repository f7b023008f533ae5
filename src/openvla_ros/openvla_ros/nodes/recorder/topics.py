"""The recorder's subscriptions: raw messages, with the type and the QoS of the publishers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from openvla_msgs.msg import ActionChunk
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rosbags.interfaces import Connection, Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from std_msgs.msg import String

from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import profile
from openvla_ros.recording.cdr import header_stamp_ns
from openvla_ros.recording.message_definitions import MessageDefinitions, UnknownType
from openvla_ros.recording.message_loss import MessageLoss


@dataclass
class RecordedTopic:
    """One subscribed topic.

    Attributes:
        name: Full name.
        msgtype: `package/msg/Name`.
        qos: QoS of the subscription.
        latched: Messages that a new subscription would still receive, newest last; None where nothing is latched.
        connection: Its connection in the open bag; None without one.
        newest: Newest message of the episode.
        stamped: Whether it is a stream of measurements whose stamps show what is missing.
        loss: Messages of the episode that were lost.
        subscription: The subscription.
    """

    name: str
    msgtype: str
    qos: QoSProfile
    latched: deque[bytes] | None
    connection: Connection | None = None
    newest: bytes | None = None
    stamped: bool = False
    loss: MessageLoss = field(default_factory=MessageLoss)
    subscription: Any = field(default=None, repr=False)


class TopicSubscriptions:
    """Subscribes to the wanted topics as they appear.

    Attributes:
        found: The subscribed topics by full name.
    """

    def __init__(
        self,
        node: Node,
        wanted: Iterable[str],
        depth: int,
        definitions: MessageDefinitions,
        on_message: Callable[[RecordedTopic, bytes], None],
    ) -> None:
        """Subscribe to nothing yet.

        Args:
            node: Node that owns the subscriptions.
            wanted: Topics, resolved in the node's namespace.
            depth: Depth of each subscription's queue.
            definitions: Definitions of the messages.
            on_message: Called with every message, serialized.
        """
        self.found: dict[str, RecordedTopic] = {}
        self._node = node
        self._wanted = {node.resolve_topic_name(name) for name in wanted}
        self._depth = depth
        self._definitions = definitions
        self._on_message = on_message
        self._warned: set[str] = set()

    def get(self, name: str, msgtype: str) -> RecordedTopic | None:
        """A topic by its relative name; None where it is not subscribed or has another type."""
        topic = self.found.get(self._node.resolve_topic_name(name))
        return topic if topic is not None and topic.msgtype == msgtype else None

    def missing(self, names: Iterable[str]) -> list[str]:
        """The topics of these names that have had no publisher yet."""
        return [name for name in names if self._node.resolve_topic_name(name) not in self.found]

    @property
    def dropped(self) -> dict[str, int]:
        """Messages of the episode that were lost, by topic; only topics with a loss."""
        return {topic.name: topic.loss.dropped for topic in self.found.values() if topic.loss.dropped}

    @property
    def gaps(self) -> dict[str, int]:
        """Messages of the episode that are missing by the stamps, by topic; only topics with a gap."""
        return {topic.name: topic.loss.gaps for topic in self.found.values() if topic.loss.gaps}

    @property
    def instruction(self) -> str:
        """The newest instruction published on `instruction`; '' without one."""
        topic = self.get("instruction", "std_msgs/msg/String")
        return str(deserialize_message(topic.latched[-1], String).data) if topic and topic.latched else ""

    @property
    def statistics(self) -> dict[str, str]:
        """Name, hash and source of the statistics behind the newest chunk; {} without one."""
        topic = self.get("policy/action_chunk", "openvla_msgs/msg/ActionChunk")
        if topic is None or topic.newest is None:
            return {}
        chunk = deserialize_message(topic.newest, ActionChunk)
        return {"name": chunk.statistics_name, "hash": chunk.statistics_hash, "source": chunk.source}

    def discover(self) -> list[RecordedTopic]:
        """Subscribe to the topics that are new in the graph; returns them."""
        absent = self._wanted - self.found.keys()
        if not absent:
            return []
        new = [self._subscribe(name, types) for name, types in self._node.get_topic_names_and_types() if name in absent]
        return [topic for topic in new if topic is not None]

    def drain(self) -> None:
        """Process the messages that the middleware has received and the executor has not."""
        for topic in self.found.values():
            subscription = topic.subscription
            with subscription.handle:
                while (taken := subscription.handle.take_message(subscription.msg_type, True)) is not None:
                    self._process(topic, *taken)

    def close(self) -> None:
        """Destroy all subscriptions."""
        for topic in self.found.values():
            self._node.destroy_subscription(topic.subscription)
        self.found.clear()

    def _subscribe(self, name: str, types: list[str]) -> RecordedTopic | None:
        publishers = self._node.get_publishers_info_by_topic(name)
        if not publishers:
            return None
        if len(types) != 1:
            self._refuse(name, f"it has several types ({', '.join(types)})")
            return None
        try:
            message = load(types[0])
            fields = self._definitions.ensure(types[0]).fielddefs[types[0]][1]
        except (ImportError, UnknownType) as error:
            self._refuse(name, str(error))
            return None
        # As rosbag2 does: the strongest QoS that all its publishers offer.
        reliable = all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in publishers)
        latched = all(p.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for p in publishers)
        qos = profile(self._depth, reliable=reliable, latched=latched)
        # Of static transforms every publisher's message stays valid, of other latched topics the newest.
        kept: deque[bytes] | None = deque(maxlen=100 if name.endswith("/tf_static") else 1) if latched else None
        # The stack's own messages are events, as a gripper's commands are: their absence is no loss.
        event = types[0].startswith("openvla_msgs/")
        stamped = not event and bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"
        topic = RecordedTopic(name, types[0], qos, kept, stamped=stamped)

        def receive(raw: bytes, info: dict[str, Any]) -> None:
            self._process(topic, raw, info)

        # rclpy passes the message's info to a callback with two arguments, which its annotations do not say.
        callback: Any = receive
        topic.subscription = self._node.create_subscription(message, name, callback, qos, raw=True)
        self.found[name] = topic
        return topic

    def _process(self, topic: RecordedTopic, raw: bytes, info: dict[str, Any]) -> None:
        # The publisher's own count shows what was lost in transport; the counts of several publishers would mix.
        alone = topic.subscription is not None and topic.subscription.get_publisher_count() == 1
        stamp_ns = header_stamp_ns(raw) if topic.stamped else None
        topic.loss.arrived(info["publication_sequence_number"] if alone else None, stamp_ns)
        if topic.latched is not None:
            topic.latched.append(raw)
        self._on_message(topic, raw)

    def _refuse(self, name: str, reason: str) -> None:
        if name not in self._warned:
            self._warned.add(name)
            self._node.get_logger().warning(f"topic {name} is not recorded: {reason}")


def bag_qos(qos: QoSProfile) -> Qos:
    """A QoS in rosbags' types, so that a replay can offer the same."""
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
