"""Facts about a running stack for `openvla-doctor`: topics, lifecycle states, parameters, controllers."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import rclpy
from lifecycle_msgs.srv import GetState
from openvla_msgs.msg import PolicyStatus, SafetyState
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import ReliabilityPolicy

from openvla_ros.apps.doctor import stack_checks
from openvla_ros.apps.doctor.stream import Stream
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.graph import type_name
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STREAM

# Types of the bridge's topics that are not the robot's.
_STACK_TYPES = {
    "openvla_msgs/msg/ActionChunk", "openvla_msgs/msg/SafetyState", "std_msgs/msg/Bool", "std_msgs/msg/Header",
    "std_msgs/msg/String", "sensor_msgs/msg/Joy", "rosgraph_msgs/msg/Clock", "rcl_interfaces/msg/ParameterEvent",
    "rcl_interfaces/msg/Log", "diagnostic_msgs/msg/DiagnosticArray", "lifecycle_msgs/msg/TransitionEvent",
}  # fmt: skip
_OBSERVERS = ("recorder_node", "openvla_doctor", "foxglove_bridge", "rosbag2_recorder")
LIST_CONTROLLERS = "controller_manager_msgs/srv/ListControllers"


class TopicProbe:
    """A subscription that measures its topic.

    Args:
        node: The node that subscribes.
        topic: The topic, relative to the node's namespace.
        kind: The message class.
    """

    def __init__(self, node: Any, topic: str, kind: type) -> None:
        self._node, self.topic = node, node.resolve_topic_name(topic)
        self._start, self._size = time.monotonic(), 0
        self._received: list[tuple[float, float, float]] = []  # arrival, stamp, age [s]
        infos = [p for p in node.get_publishers_info_by_topic(self.topic) if p.topic_type == type_name(kind)]
        self._publishers = len(infos)
        self._reliable = bool(infos) and all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in infos)
        qos = STREAM if self._reliable else SENSOR
        self._subscription = node.create_subscription(kind, topic, self._on_message, qos)

    @property
    def connected(self) -> bool:
        """Whether all publishers of the topic are matched."""
        return bool(self._subscription.get_publisher_count() >= self._publishers)

    def restart(self) -> None:
        """Measure from now on."""
        self._start = time.monotonic()
        self._received.clear()

    def _on_message(self, message: Any) -> None:
        now = self._node.get_clock().now().nanoseconds
        stamp = conversions.stamp_ns(message.header.stamp) if hasattr(message, "header") else now
        self._size = len(getattr(message, "data", b""))
        self._received.append((time.monotonic(), stamp * 1e-9, (now - stamp) * 1e-9))

    def stream(self) -> Stream:
        """The messages received so far."""
        listened = time.monotonic() - self._start
        columns = [tuple(column) for column in zip(*self._received, strict=True)] or [(), (), ()]
        return Stream(self.topic, self._publishers, self._reliable, listened, self._size, *columns)


class StackProbe:
    """A node in a context of its own; `close` when done. Every method returns within a bounded time.

    Args:
        namespace: The stack's namespace.
        simulated: Use simulated time.
        remappings: Those of the stack's nodes, e.g. for a simulator's clock in a namespace.
    """

    def __init__(self, namespace: str, simulated: bool, remappings: Iterable[tuple[str, str]] = ()) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        rules = [word for source, target in remappings for word in ("-r", f"{source}:={target}")]
        self.node = rclpy.create_node(
            "openvla_doctor",
            namespace=namespace,
            context=self._context,
            parameter_overrides=[Parameter("use_sim_time", value=simulated)],
            cli_args=["--ros-args", *rules] if rules else None,
        )
        self.safety: SafetyState | None = None
        self.status: PolicyStatus | None = None
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.node.create_subscription(SafetyState, "safety/state", self._on_safety, LATCHED)
        self.node.create_subscription(PolicyStatus, "policy/status", self._on_status, LATCHED)

    def _on_safety(self, message: SafetyState) -> None:
        self.safety = message

    def _on_status(self, message: PolicyStatus) -> None:
        self.status = message

    def close(self) -> None:
        """Leave the ROS graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Serve callbacks for a time [s], or until a condition holds; whether it holds."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def call(self, services: Mapping[str, tuple[type, Any]], timeout: float) -> dict[str, Any]:
        """Call services concurrently.

        Args:
            services: Service name -> (type, request).
            timeout: For all of them together [s].

        Returns:
            Service name -> response, without the services that did not answer.
        """
        clients = {name: self.node.create_client(kind, name) for name, (kind, _) in services.items()}
        end, futures = time.monotonic() + timeout, {}
        while time.monotonic() < end:
            for name, client in clients.items():
                if name not in futures and client.service_is_ready():
                    futures[name] = client.call_async(services[name][1])
            if len(futures) == len(clients) and all(future.done() for future in futures.values()):
                break
            self.spin(0.05)
        responses = {name: future.result() for name, future in futures.items() if future.done()}
        for client in clients.values():
            self.node.destroy_client(client)
        return responses

    def lifecycle_states(self, nodes: Iterable[str], timeout: float) -> dict[str, str]:
        """Node -> lifecycle state; '' for a node that does not answer within `timeout` [s]."""
        nodes = list(nodes)
        responses = self.call({f"{name}/get_state": (GetState, GetState.Request()) for name in nodes}, timeout)
        found = {name: responses.get(f"{name}/get_state") for name in nodes}
        return {name: response.current_state.label if response else "" for name, response in found.items()}

    def parameters(self, wanted: Mapping[str, list[str]], timeout: float) -> dict[str, dict[str, Any]]:
        """Node -> parameter -> current value, for the parameters in `wanted`; without nodes that do not answer."""
        requests = {f"{n}/get_parameters": (GetParameters, GetParameters.Request(names=k)) for n, k in wanted.items()}
        values: dict[str, dict[str, Any]] = {}
        for service, response in self.call(requests, timeout).items():
            node = service.rpartition("/")[0]
            # A node that lacks one of the parameters answers with an empty list.
            pairs = zip(wanted[node], response.values, strict=False)
            values[node] = {name: parameter_value_to_python(value) for name, value in pairs}
        return values

    def bridge_topics(self, bridge: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """The robot's topics at the bridge.

        Args:
            bridge: The bridge's node name.

        Returns:
            What it subscribes to (topic -> type), and what it commands (topic -> full names of the subscribers).
        """
        where = self.node.get_namespace()
        try:
            subscribed = self.node.get_subscriber_names_and_types_by_node(bridge, where)
            published = self.node.get_publisher_names_and_types_by_node(bridge, where)
        except Exception:  # rclpy's NodeNameNonExistentError: the bridge has left the graph
            return {}, {}
        state = {topic: types[0] for topic, types in subscribed if types[0] not in _STACK_TYPES}
        commands = {}
        for topic, types in published:
            if types[0] not in _STACK_TYPES:
                infos = self.node.get_subscriptions_info_by_topic(topic)
                names = (_full_name(one.node_namespace, one.node_name) for one in infos)
                commands[topic] = tuple(name for name in names if name.rpartition("/")[2] not in _OBSERVERS)
        return state, commands

    def measure(self, topic: str, kind: type | str) -> TopicProbe | None:
        """Subscribe to a topic, by message class or type name; None when the type's package is not installed."""
        if isinstance(kind, str):
            try:
                kind = load(kind)
            except ImportError:
                return None
        return TopicProbe(self.node, topic, kind)

    def listen(self, topics: Iterable[TopicProbe], seconds: float, timeout: float) -> None:
        """Measure topics for a time, once all are connected.

        Args:
            topics: What to measure.
            seconds: How long, on the node's clock [s]; a slow simulator gets the wall-clock time that it needs.
            timeout: Longest time to wait for connections, and beyond `seconds` for a slow simulator [s, wall clock].
        """
        end, clock, topics = time.monotonic() + timeout + seconds, self.node.get_clock(), list(topics)
        self.spin(timeout, lambda: clock.now().nanoseconds > 0 and all(one.connected for one in topics))
        for one in topics:
            one.restart()
        due = clock.now().nanoseconds + seconds * 1e9
        self.spin(max(seconds, end - time.monotonic()), lambda: clock.now().nanoseconds >= due)

    def published_topics(self, kind: type) -> list[str]:
        """Topics of a type that have a publisher."""
        wanted = type_name(kind)
        topics = self.node.get_topic_names_and_types()
        return sorted(name for name, types in topics if wanted in types and self.node.count_publishers(name))

    def controllers(self, timeout: float) -> tuple[dict[str, str], str]:
        """The controllers of all controller_managers in the graph.

        Args:
            timeout: For their answers [s].

        Returns:
            Full node name -> state, and why there are none; '' when there are.
        """
        services = [n for n, types in self.node.get_service_names_and_types() if LIST_CONTROLLERS in types]
        if not services:
            return {}, stack_checks.NO_MANAGER
        try:
            kind = importlib.import_module("controller_manager_msgs.srv").ListControllers
        except ImportError:
            return {}, stack_checks.NO_MANAGER_MESSAGES
        states: dict[str, str] = {}
        for service, response in self.call({name: (kind, kind.Request()) for name in services}, timeout).items():
            # A controller is a node of its own, in its manager's namespace: <namespace>/<manager>/list_controllers.
            namespace = service.rpartition("/")[0].rpartition("/")[0]
            states |= {_full_name(namespace, c.name): str(c.state) for c in response.controller}
        return states, "" if states else stack_checks.MANAGER_SILENT


def _full_name(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"
