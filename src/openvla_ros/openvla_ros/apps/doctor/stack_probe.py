"""What `openvla-doctor` hears of a running stack: topics, lifecycle states, live parameters, controllers."""

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

from openvla_ros.apps.doctor import checks
from openvla_ros.apps.doctor.checks import Stream
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.graph import type_name
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STREAM

# What a bridge hears and says beside the robot's own topics.
_NOT_THE_ROBOTS = {
    "openvla_msgs/msg/ActionChunk", "openvla_msgs/msg/SafetyState", "std_msgs/msg/Bool", "std_msgs/msg/Header",
    "std_msgs/msg/String", "sensor_msgs/msg/Joy", "rosgraph_msgs/msg/Clock", "rcl_interfaces/msg/ParameterEvent",
    "rcl_interfaces/msg/Log", "diagnostic_msgs/msg/DiagnosticArray", "lifecycle_msgs/msg/TransitionEvent",
}  # fmt: skip
_ONLOOKERS = ("recorder_node", "openvla_doctor", "foxglove_bridge", "rosbag2_recorder")
LIST_CONTROLLERS = "controller_manager_msgs/srv/ListControllers"


class Recording:
    """Collects what a `Stream` is made of."""

    def __init__(self, node: Any, topic: str, kind: type) -> None:
        self._node, self.topic = node, node.resolve_topic_name(topic)
        self._kind, self._start, self._size = kind, time.monotonic(), 0
        self._got: list[tuple[float, float, float]] = []
        infos = [p for p in node.get_publishers_info_by_topic(self.topic) if p.topic_type == type_name(kind)]
        self._publishers = len(infos)
        self._reliable = bool(infos) and all(p.qos_profile.reliability == ReliabilityPolicy.RELIABLE for p in infos)
        qos = STREAM if self._reliable else SENSOR
        self._subscription = node.create_subscription(kind, topic, self._on_message, qos)

    @property
    def connected(self) -> bool:
        """Whether all its publishers speak to it by now."""
        return bool(self._subscription.get_publisher_count() >= self._publishers)

    def begin(self) -> None:
        """Count from now on."""
        self._start = time.monotonic()
        self._got.clear()

    def _on_message(self, message: Any) -> None:
        now = self._node.get_clock().now().nanoseconds
        stamp = conversions.stamp_ns(message.header.stamp) if hasattr(message, "header") else now
        self._size = len(getattr(message, "data", b""))
        self._got.append((time.monotonic(), stamp * 1e-9, (now - stamp) * 1e-9))

    def stream(self) -> Stream:
        """What was heard until now."""
        listened = time.monotonic() - self._start
        columns = [tuple(column) for column in zip(*self._got, strict=True)] or [(), (), ()]
        return Stream(self.topic, self._publishers, self._reliable, listened, self._size, *columns)


class Listener:
    """A node of its own context; `close` when done. Everything takes bounded time.

    remappings: of the stack's nodes, for a simulator's clock in a namespace.
    """

    def __init__(self, namespace: str, simulated: bool, remappings: Iterable[tuple[str, str]] = ()) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        clock = [Parameter("use_sim_time", value=simulated)]
        rules = [word for source, target in remappings for word in ("-r", f"{source}:={target}")]
        self.node = rclpy.create_node(
            "openvla_doctor", namespace=namespace, context=self._context, parameter_overrides=clock,
            cli_args=["--ros-args", *rules] if rules else None,
        )  # fmt: skip
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
        """Leave the graph."""
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Serve callbacks for so long, or until something is true; whether it became so."""
        end = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= end:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def ask(self, services: Mapping[str, tuple[type, Any]], patience: float) -> dict[str, Any]:
        """Call services side by side: name -> (type, request) to name -> response. Who does not answer is left out."""
        clients = {name: self.node.create_client(kind, name) for name, (kind, _) in services.items()}
        end, waiting = time.monotonic() + patience, {}
        while time.monotonic() < end:
            for name, client in clients.items():
                if name not in waiting and client.service_is_ready():
                    waiting[name] = client.call_async(services[name][1])
            if len(waiting) == len(clients) and all(future.done() for future in waiting.values()):
                break
            self.spin(0.05)
        answers = {name: future.result() for name, future in waiting.items() if future.done()}
        for client in clients.values():
            self.node.destroy_client(client)
        return answers

    def lifecycle(self, nodes: Iterable[str], patience: float) -> dict[str, str]:
        """Node -> lifecycle state; '' where nobody answers."""
        nodes = list(nodes)
        answers = self.ask({f"{name}/get_state": (GetState, GetState.Request()) for name in nodes}, patience)
        found = {name: answers.get(f"{name}/get_state") for name in nodes}
        return {name: answer.current_state.label if answer else "" for name, answer in found.items()}

    def parameters(self, wanted: Mapping[str, list[str]], patience: float) -> dict[str, dict[str, Any]]:
        """Node -> parameter -> the value it runs with; nodes that do not answer are left out."""
        asked = {f"{n}/get_parameters": (GetParameters, GetParameters.Request(names=k)) for n, k in wanted.items()}
        live: dict[str, dict[str, Any]] = {}
        for service, answer in self.ask(asked, patience).items():
            node = service.rpartition("/")[0]
            pairs = zip(wanted[node], answer.values, strict=False)  # a node without one of them answers with nothing
            live[node] = {name: parameter_value_to_python(value) for name, value in pairs}
        return live

    def bridge_topics(self, bridge: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
        """What the bridge hears of the robot (topic -> type), and the full names of who listens to what it commands."""
        where = self.node.get_namespace()
        try:
            heard = self.node.get_subscriber_names_and_types_by_node(bridge, where)
            said = self.node.get_publisher_names_and_types_by_node(bridge, where)
        except Exception:  # rclpy's NodeNameNonExistentError: it left meanwhile
            return {}, {}
        state = {topic: types[0] for topic, types in heard if types[0] not in _NOT_THE_ROBOTS}
        commands = {}
        for topic, types in said:
            if types[0] not in _NOT_THE_ROBOTS:
                listeners = self.node.get_subscriptions_info_by_topic(topic)
                names = (_full(one.node_namespace, one.node_name) for one in listeners)
                commands[topic] = tuple(name for name in names if name.rpartition("/")[2] not in _ONLOOKERS)
        return state, commands

    def record(self, topic: str, kind: type | str) -> Recording | None:
        """Begin to listen; None where the type's package is not installed."""
        if isinstance(kind, str):
            package, _, name = kind.split("/")
            try:
                found: type = getattr(importlib.import_module(f"{package}.msg"), name)
            except ImportError:
                return None
            return Recording(self.node, topic, found)
        return Recording(self.node, topic, kind)

    def listen(self, recordings: Iterable[Recording], seconds: float, patience: float) -> None:
        """Let recordings hear so long [s, the node's clock] what is said, once they are connected.

        With simulated time a simulator that is slow gets the time that it takes; at most `patience` [s, wall] more.
        """
        end, clock, recordings = time.monotonic() + patience + seconds, self.node.get_clock(), list(recordings)
        self.spin(patience, lambda: clock.now().nanoseconds > 0 and all(one.connected for one in recordings))
        for one in recordings:
            one.begin()
        due = clock.now().nanoseconds + seconds * 1e9
        self.spin(max(seconds, end - time.monotonic()), lambda: clock.now().nanoseconds >= due)

    def topics_of(self, kind: type) -> list[str]:
        """Published topics of a type."""
        wanted = type_name(kind)
        there = self.node.get_topic_names_and_types()
        return sorted(n for n, types in there if wanted in types and self.node.count_publishers(n))

    def controllers(self, patience: float) -> tuple[dict[str, str], str]:
        """Controller's full node name -> state, of all controller_managers in the graph; else why there are none."""
        names = [n for n, types in self.node.get_service_names_and_types() if LIST_CONTROLLERS in types]
        if not names:
            return {}, checks.NO_MANAGER
        try:
            kind = importlib.import_module("controller_manager_msgs.srv").ListControllers
        except ImportError:
            return {}, checks.NO_MANAGER_MESSAGES
        states: dict[str, str] = {}
        for service, answer in self.ask({name: (kind, kind.Request()) for name in names}, patience).items():
            # A controller is a node of its own, in its manager's namespace: <namespace>/<manager>/list_controllers.
            namespace = service.rpartition("/")[0].rpartition("/")[0]
            states |= {_full(namespace, c.name): str(c.state) for c in answer.controller}
        return states, "" if states else checks.MANAGER_SILENT


def _full(namespace: str, name: str) -> str:
    return f"{namespace.rstrip('/')}/{name}"
