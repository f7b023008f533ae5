"""Carries out with rclpy what a robot adapter describes as data: topics, services and actions.

Everything that the robot reports becomes a pose, an opening or a fault; everything that the adapter sends passes
`conversions`, which checks it. Nothing here waits while the arm moves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.serialization import deserialize_message

from openvla_ros.control.commands import CancelGoal, GripperCommand, TargetCommand
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.bridge.state_publisher import StatePublisher
from openvla_ros.nodes.bridge.stop_guard import StopGuard
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import COMMAND, SENSOR, STATE
from openvla_ros.nodes.common.temporary_node import temporary_node
from openvla_ros.robots.adapter import (
    FRANKA_STATE,
    JOINTS,
    POSE,
    SERVO_STATUS,
    TRAJECTORY,
    Call,
    Goal,
    Handler,
    JointSingle,
    Measured,
    Opening,
    RobotAdapter,
    Sent,
)

FAULT_PERIOD = 0.05  # [s] between two evaluations of the robot's fault state, which arrives at 1 kHz
FAULT_SILENCE = 1.0  # [s] without a message of the fault state counts as a fault
GRIPPER = (Opening, JointSingle)
# Message type -> the values that a handler is called with.
VALUES: dict[str, Callable[[Any], tuple[Any, ...]]] = {
    POSE: conversions.read_pose,
    JOINTS: conversions.read_joints,
    TRAJECTORY: conversions.read_trajectory,
    SERVO_STATUS: lambda message: (int(message.code),),
    FRANKA_STATE: lambda message: (int(message.robot_mode),),
}


class RobotEvents(Protocol):
    """What the robot reports, for the bridge."""

    def on_measured(self, measured: Measured, stamp_ns: int) -> bool:
        """Take in a measurement stamped `stamp_ns`; whether its pose was accepted."""
        ...

    def on_fault(self, reason: str) -> None:
        """Take in why the robot does not move; '' if it does."""
        ...

    def on_goal_accepted(self, goal: int) -> None:
        """Take in that the server of a goal accepted it."""
        ...

    def on_goal_ended(self, goal: int, reached_server: bool, failure: str) -> None:
        """Take in that a goal ended and why it failed ('' if not), or (reached_server=False) was refused."""
        ...


@dataclass
class _FaultState:
    """A topic with the robot's fault state."""

    handler: Handler
    newest: bytes | None
    received: float  # [s, steady]


class RobotInterface:
    """Everything between an adapter and ROS. Made at configure; the node destroys what it owns at cleanup."""

    def __init__(
        self, node: ManagedNode[BridgeParameters], adapter: RobotAdapter, events: RobotEvents, call_timeout: float
    ) -> None:
        """Make the setup calls, then create publishers, subscriptions and action clients.

        Args:
            node: The bridge.
            adapter: The robot's adapter.
            events: What takes in the robot's reports.
            call_timeout: Longest wait for a service, an action or the robot's driver [s].
        """
        self._node, self._adapter, self._events, self._timeout = node, adapter, events, call_timeout
        self._base_frame = node.parameters.base_frame
        self._goals: dict[int, tuple[str, Any]] = {}  # goals under way: action, and handle once accepted
        self._fault_states: dict[str, _FaultState] = {}
        self._guard = StopGuard(node, adapter.guarded_topics) if adapter.guarded_topics else None
        self._call(adapter.setup())
        if self._guard is not None:
            self._guard.wait(call_timeout)
        self._publishers = {
            # A set-point that is overtaken does not matter; a gripper's command must arrive.
            topic: node.publisher(conversions.message_type(kind), topic, STATE if kind in GRIPPER else COMMAND)
            for topic, kind in adapter.topics
        }
        recovery = () if adapter.recovery is None else ((adapter.recovery[0], adapter.recovery[1].kind),)
        self._clients = {name: self._client(kind, name) for name, kind in (*adapter.actions, *recovery)}
        self._state_publisher = StatePublisher(node, [*adapter.sources, *(topic for topic, _ in adapter.topics)])
        for topic, handler in adapter.sources.items():
            self._subscribe(topic, handler)
        if self._fault_states:
            node.timer(FAULT_PERIOD, self._check_fault_states, steady=True)

    # ---- lifecycle -------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the calls at activate.

        Raises:
            TimeoutError: The gripper's action, or a service, is not available.
        """
        for name, kind in self._adapter.actions:
            if not self._clients[name].wait_for_server(timeout_sec=self._timeout):
                remedy = "is the gripper's driver running, and are hand.name and hand.kind right?"
                raise TimeoutError(f"action {name} ({kind}) is not available: {remedy}")
        self._call(self._adapter.start())

    def stop(self) -> None:
        """Make the calls at deactivate, once the controller has come to rest; a failure is only logged."""
        if not self._node.context.ok():
            return  # ended by a signal: no call is possible any more
        time.sleep(self._adapter.settling)
        try:
            self._call(self._adapter.stop())
        except (RuntimeError, TimeoutError, ImportError) as error:
            if not self._node.closing:
                self._node.get_logger().warning(str(error))

    def check_guard(self) -> None:
        """Report a fault if the stop guard's process has ended; to be called regularly."""
        if self._guard is not None and not self._guard.alive:
            self._events.on_fault("the stop guard of the gripper has ended: configure the bridge again")

    # ---- commands --------------------------------------------------------------------------------

    def send_target(self, target: TargetCommand) -> tuple[str, ...]:
        """Send a target to the robot; names of the adapter's limits that cut it."""
        self._send(self._adapter.target(target.pose, target.stamp_ns))
        self._state_publisher.publish_pose("robot/target_pose", target.pose, target.stamp_ns)
        return self._adapter.clipped

    def send_gripper(self, command: GripperCommand) -> bool:
        """Send an opening to the gripper; False if its action has no server."""
        return self._send(self._adapter.gripper(command.opening), command.goal)

    def tick(self, stamp_ns: int, permitted: bool) -> None:
        """Send what follows from time alone. permitted: the arm may move."""
        self._send(self._adapter.tick(stamp_ns, permitted))

    def end_stream(self, stamp_ns: int) -> None:
        """Send what ends a stream of targets."""
        self._send(self._adapter.rest(stamp_ns))

    def cancel(self, cancel: CancelGoal) -> None:
        """Cancel a goal, if its server has accepted it."""
        name, handle = self._goals.get(cancel.goal, ("", None))
        if cancel.reason:
            self._node.get_logger().warning(f"{name} {cancel.reason}")
        if handle is not None:
            handle.cancel_goal_async()

    def recovery_missing(self) -> str:
        """Why the robot cannot be asked to recover from its fault; '' if it can."""
        if self._adapter.recovery is None:
            return "this robot has no recovery that the bridge could request"
        name = self._adapter.recovery[0]
        ready = self._clients[name].server_is_ready()
        return "" if ready else f"action {name} is not available: is the robot's driver running?"

    @property
    def recovery_steps(self) -> str:
        """What the operator is to do once the recovery was requested."""
        assert self._adapter.recovery is not None
        done = f"{self._adapter.recovery[0]} requested; when safety/state reports no fault any more, enable again"
        return done + self._adapter.after_recovery

    def recover(self, goal: int) -> bool:
        """Ask the robot to recover from its fault; False if its action has no server."""
        assert self._adapter.recovery is not None
        return self._send([self._adapter.recovery], goal)

    def _send(self, sent: Sent, goal: int = 0) -> bool:
        """Publish commands, and send goals without waiting; False if an action has no server."""
        orders, reached = self._adapter.stop_orders, True
        if self._guard is not None and orders is not None:
            self._guard.update(orders)  # before the command that they are to end
        for topic, command in sent:
            if isinstance(command, Goal):
                reached = self._send_goal(topic, command, goal)
            else:
                self._publishers[topic].publish(conversions.command_message(command))
        if self._guard is not None:
            self._guard.update(orders)
        return reached

    # ---- actions ---------------------------------------------------------------------------------

    def _client(self, kind: str, name: str) -> Any:
        return self._node.own(lambda client: client.destroy(), ActionClient(self._node, load(kind), name))

    def _send_goal(self, name: str, command: Goal, goal: int) -> bool:
        client = self._clients[name]
        if not client.server_is_ready():
            self._node.get_logger().error(f"action {name} is not available: goal {dict(command.fields)} was not sent")
            return False
        self._goals[goal] = (name, None)
        message = conversions.filled(load(command.kind).Goal, command.fields)  # type: ignore[attr-defined]
        client.send_goal_async(message).add_done_callback(partial(self._on_answer, goal))
        return True

    def _on_answer(self, goal: int, future: Any) -> None:
        handle = future.result()
        name, _ = self._goals[goal]
        if not handle.accepted:
            self._node.get_logger().error(f"{name} refused its goal")
            del self._goals[goal]
            self._events.on_goal_ended(goal, reached_server=False, failure="")
            return
        self._goals[goal] = (name, handle)
        self._events.on_goal_accepted(goal)
        handle.get_result_async().add_done_callback(partial(self._on_result, goal))

    def _on_result(self, goal: int, future: Any) -> None:
        answer = future.result()
        name, _ = self._goals.pop(goal)
        reason = failure(answer.result, answer.status)
        failed = f"{name} did not succeed: {reason}" if reason else ""
        self._events.on_goal_ended(goal, reached_server=True, failure=failed)

    # ---- state -----------------------------------------------------------------------------------

    def _subscribe(self, topic: str, handler: Handler) -> None:
        if handler.kind != FRANKA_STATE:
            callback = partial(self._on_message, topic, handler)
            self._node.subscribe(load(handler.kind), topic, callback, SENSOR)
            return
        # 1 kHz of a message with a hundred fields: taken as bytes, and deserialized at a lower rate.
        state = self._fault_states[topic] = _FaultState(handler, None, time.monotonic())
        self._events.on_fault(f"no message on {topic} yet")
        self._node.subscribe(load(handler.kind), topic, partial(self._on_fault_state, state), SENSOR, raw=True)

    def _on_message(self, topic: str, handler: Handler, message: Any) -> None:
        try:
            if handler.kind == POSE:
                self._check_frame(message)
            measured = handler.read(*VALUES[handler.kind](message))
            if measured.pose is not None or measured.opening is not None:
                self._deliver(measured, conversions.stamp_ns(message.header.stamp))
        except ValueError as error:  # and the state becomes stale, which holds
            self._node.get_logger().error(f"{topic}: {error}", throttle_duration_sec=1.0)

    def _check_frame(self, message: PoseStamped) -> None:
        if (frame := message.header.frame_id) != self._base_frame:
            raise ValueError(f"its poses are in frame '{frame}', not in base_frame '{self._base_frame}': not used")

    def _deliver(self, measured: Measured, stamp_ns: int) -> None:
        """Pass a measurement to the bridge; and a pose that it accepts to the adapter and the stack's topics."""
        accepted = self._events.on_measured(measured, stamp_ns)
        if measured.pose is not None and accepted:
            self._adapter.pose_accepted(measured.pose)
            self._state_publisher.publish_pose("robot/ee_pose", measured.pose, stamp_ns)
        if measured.opening is not None:
            self._state_publisher.publish_opening(measured.opening, stamp_ns)

    def _on_fault_state(self, state: _FaultState, data: bytes) -> None:
        state.newest, state.received = data, time.monotonic()

    def _check_fault_states(self) -> None:
        for topic, state in self._fault_states.items():
            if time.monotonic() - state.received > FAULT_SILENCE:
                silent = f"no message on {topic} for {FAULT_SILENCE:g} s"
                self._events.on_fault(f"{silent}: {state.handler.silence}" if state.handler.silence else silent)
            elif state.newest is not None:
                kind = state.handler.kind
                measured = state.handler.read(*VALUES[kind](deserialize_message(state.newest, load(kind))))
                self._events.on_fault(measured.fault or "")

    # ---- services --------------------------------------------------------------------------------

    def _call(self, calls: Sequence[Call]) -> None:
        """Call services one after the other, on a temporary node: this one's executor is busy with the transition."""
        if not calls:
            return
        with temporary_node(self._node, "calls") as (node, executor):
            for call in calls:
                client = node.create_client(load(call.kind), call.service)
                if not client.wait_for_service(timeout_sec=self._timeout):
                    raise TimeoutError(f"service {call.service} is not available: {call.remedy}")
                request = conversions.filled(load(call.kind).Request, call.fields)  # type: ignore[attr-defined]
                future = client.call_async(request)
                executor.spin_until_future_complete(future, timeout_sec=self._timeout)
                if not future.done():
                    what = f"service {call.service} did not answer within {self._timeout:g} s"
                    raise TimeoutError(f"{what}: {call.remedy}")
                _check_answer(call, future.result())


def failure(result: Any, status: int) -> str:
    """Why a goal did not succeed; '' if it did, or if the gripper stalled: that is how it comes to hold something.

    (ros2_controllers end a goal whose fingers stall as aborted, unless their `allow_stalling` is set.)

    Args:
        result: Result of the goal.
        status: Its status, as in action_msgs/GoalStatus.

    Returns:
        The reason, in one line.
    """
    done = status == GoalStatus.STATUS_SUCCEEDED and getattr(result, "success", True)
    if done or (status == GoalStatus.STATUS_ABORTED and getattr(result, "stalled", False)):
        return ""
    return getattr(result, "error", "") or "no reason given"


def _check_answer(call: Call, answer: Any) -> None:
    """Raise RuntimeError unless each field of a service's answer is as `Call.expect` says."""
    expected: Mapping[str, object] = call.expect
    for name, wanted in expected.items():
        value = getattr(answer, name)
        values = [value] if isinstance(value, (bool, int, float, str)) else list(value)
        right = tuple(values) == wanted if isinstance(wanted, tuple) else {*values} == {wanted}
        if not right:
            raise RuntimeError(f"{call.service} reports {name} = {values}, not {wanted}: {call.remedy}")
