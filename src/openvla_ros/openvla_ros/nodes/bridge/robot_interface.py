"""An adapter's topics, services and actions: what it describes as data, done with rclpy.

Everything the robot says is turned into a pose, an opening, or a fault; everything the adapter wants sent goes through
`messages`, which checks it. Nothing here waits while the arm moves: goals of the hand are sent and looked after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from action_msgs.msg import GoalStatus
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionClient
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from openvla_ros.geometry import Pose
from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.bridge.state_publisher import Shown
from openvla_ros.nodes.bridge.stop_guard import WillKeeper
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import COMMAND, SENSOR, STATE
from openvla_ros.nodes.common.temporary_node import temporary_node
from openvla_ros.robots.adapter import Call, Goal, JointSingle, Measured, Opening, RobotAdapter, Sent, Source

MODE_PERIOD = 0.05  # [s] between two looks at the robot's own state, which comes at 1 kHz
HAND = (Opening, JointSingle)
MODE_SILENCE = 1.0  # [s] of it count as a fault
CANCEL_TIME = 1.0  # [s] a driver has to end a cancelled goal before it is given up


class RobotLink:
    """Everything between one adapter and ROS. Made at configure; the node destroys what it owns at cleanup."""

    def __init__(
        self,
        node: ManagedNode[BridgeParameters],
        adapter: RobotAdapter,
        on_measured: Callable[[Measured, int], bool],
        on_fault: Callable[[str], None],
        call_timeout: float,
    ) -> None:
        """on_measured: called with what was measured and its stamp [ns], says whether a pose was taken; on_fault: with
        why the robot stands, or ''.
        """
        self._node, self._adapter, self._timeout = node, adapter, call_timeout
        self._on_measured, self._on_fault = on_measured, on_fault
        self._base_frame = node.parameters.base_frame
        self._recovery = adapter.recovery[0] if adapter.recovery is not None else ""
        self._running: dict[str, _Running] = {}
        self._next: tuple[str, Goal] | None = None  # waits for the hand to end what it does
        self._unheard = False  # a goal did not reach the hand, or it would not take it
        self._modes: dict[str, tuple[type, bytes | None, float]] = {}
        self._keeper = WillKeeper(node, adapter.will_topics) if adapter.will_topics else None
        self._call(adapter.setup())
        if self._keeper is not None:
            self._keeper.wait(call_timeout)
        self._publishers = {
            # A set-point that is overtaken does not matter; a hand's command must arrive.
            topic: node.publisher(conversions.message_type(kind), topic, STATE if kind in HAND else COMMAND)
            for topic, kind in adapter.topics
        }
        self._clients = {name: self._client(kind, name) for name, kind in adapter.actions}
        spoken = [*(source.topic for source in adapter.sources), *(topic for topic, _ in adapter.topics)]
        self._shown = Shown(node, spoken)
        for source in adapter.sources:
            self._listen(source)
        if self._modes:
            node.timer(MODE_PERIOD, self._look_at_modes, steady=True)

    def start(self) -> None:
        """The calls at activate. Raises in one line when an answer is not as it should be or the hand is not there."""
        for name, client in self._clients.items():
            if name != self._recovery and not client.wait_for_server(timeout_sec=self._timeout):
                kind = dict(self._adapter.actions)[name]
                hint = "is the hand's driver running, and are hand.name and hand.kind right?"
                raise TimeoutError(f"action {name} ({kind}) is not there: {hint}")
        self._call(self._adapter.start())

    def stop(self) -> None:
        """The calls at deactivate, once the controller has come to rest; what fails is only logged."""
        if not self._node.context.ok():
            return  # ended by a signal: nothing can be called any more
        time.sleep(self._adapter.settling)
        try:
            self._call(self._adapter.stop())
        except (RuntimeError, TimeoutError, ImportError) as error:
            if not self._node.closing:
                self._node.get_logger().warning(str(error))

    # ---- out -------------------------------------------------------------------------------------

    def send(self, sent: Sent) -> None:
        """Publish commands, and send goals without waiting."""
        will = self._adapter.will
        if self._keeper is not None and will is not None:
            self._keeper.tell(will)  # before what it is to end
        for topic, command in sent:
            if isinstance(command, Goal):
                self._send_goal(topic, command)
            else:
                self._publishers[topic].publish(conversions.command_message(command))
        if self._keeper is not None:
            self._keeper.tell(will)

    def show_target(self, pose: Pose, stamp_ns: int) -> None:
        """Let others see a target that goes to the robot in another form, or by another name."""
        self._shown.pose("robot/target_pose", pose, stamp_ns)

    def recover(self) -> tuple[bool, str]:
        """Ask the robot to recover from its fault; whether it was asked, and what to look at."""
        if self._adapter.recovery is None:
            return False, "this robot has no recovery that a bridge could ask for"
        name, goal = self._adapter.recovery
        if not self._clients[name].server_is_ready():
            return False, f"action {name} is not there: is the robot's driver running?"
        self._send_goal(name, goal)
        after = self._adapter.after_recovery
        return True, f"{name} asked for; when safety/state names no fault any more, enable again{after}"

    def drop_waiting(self) -> bool:
        """Forget a goal that waits for the hand to end what it does; whether there was one."""
        dropped, self._next = self._next is not None, None
        return dropped

    def take_unheard(self) -> bool:
        """Whether a goal of the hand came to nothing since the last time this was asked."""
        unheard, self._unheard = self._unheard, False
        return unheard

    def check(self) -> None:
        """Cancel goals that took too long; called regularly."""
        for name, running in list(self._running.items()):
            if time.monotonic() <= running.deadline:
                continue
            if running.cancelled:
                self._forget(name)
            else:
                self._node.get_logger().warning(f"{name} took longer than {running.timeout:g} s: cancelled")
                running.cancel()
        if self._keeper is not None and not self._keeper.alive:
            self._on_fault("the keeper of the hand's last will is gone: configure the bridge again")

    def _client(self, kind: str, name: str) -> Any:
        made = ActionClient(self._node, load(kind), name)
        return self._node.own(lambda client: client.destroy(), made)

    def _send_goal(self, name: str, goal: Goal) -> None:
        busy = [running for other, running in self._running.items() if other != self._recovery]
        if name != self._recovery and busy:
            # A hand does one thing at a time, and its driver takes the stop of one for a stop of the next.
            self._next = (name, goal)
            for running in busy:
                running.cancel()
            return
        client = self._clients[name]
        if not client.server_is_ready():
            self._node.get_logger().error(f"action {name} is not there: the goal {dict(goal.fields)} was not sent")
            self._unheard |= name != self._recovery
            return
        running = self._running[name] = _Running(goal.timeout)
        future = client.send_goal_async(conversions.filled(load(goal.kind).Goal, goal.fields))  # type: ignore[attr-defined]
        future.add_done_callback(lambda f: self._answered(name, running, f.result()))

    def _answered(self, name: str, running: _Running, handle: Any) -> None:
        if not handle.accepted:
            self._node.get_logger().error(f"{name} refused its goal")
            self._unheard |= name != self._recovery
            self._forget(name, running)
            return
        running.accepted(handle)
        handle.get_result_async().add_done_callback(lambda f: self._ended(name, running, f.result()))

    def _ended(self, name: str, running: _Running, answer: Any) -> None:
        if not running.cancelled and (why := failure(answer.result, answer.status)):
            self._node.get_logger().warning(f"{name} did not succeed: {why}")
        self._forget(name, running)

    def _forget(self, name: str, running: _Running | None = None) -> None:
        """A goal has come to its end; what waited for the hand goes on."""
        if running is not None and self._running.get(name) is not running:
            return  # given up before
        del self._running[name]
        if self._next is not None and not any(other != self._recovery for other in self._running):
            (after, goal), self._next = self._next, None
            self._send_goal(after, goal)

    # ---- in --------------------------------------------------------------------------------------

    def _listen(self, source: Source) -> None:
        topic, kind = source.topic, load(source.kind)
        if source.what == "pose":
            self._node.subscribe(kind, topic, lambda message: self._judge(topic, self._pose, message), SENSOR)
        elif source.what == "joints":
            self._node.subscribe(kind, topic, lambda message: self._judge(topic, self._joints, topic, message), SENSOR)
        elif source.what == "servo":
            self._node.subscribe(kind, topic, lambda message: self._adapter.servo_seen(int(message.code)), SENSOR)
        elif source.what == "trajectory":
            self._node.subscribe(kind, topic, lambda m: self._judge(topic, self._trajectory, topic, m), SENSOR)
        else:
            # 1 kHz of a message with a hundred fields: taken as bytes, read twenty times a second.
            self._modes[topic] = (kind, None, time.monotonic())
            self._on_fault(f"{topic} was not heard yet")
            self._node.subscribe(kind, topic, lambda data: self._mode(topic, data), SENSOR, raw=True)

    def _judge(self, topic: str, read: Callable[..., None], *arguments: Any) -> None:
        try:
            read(*arguments)
        except ValueError as error:  # and the state grows stale, which holds
            self._node.get_logger().error(f"{topic}: {error}", throttle_duration_sec=1.0)

    def _pose(self, message: PoseStamped) -> None:
        pose, stamp_ns = conversions.read_pose(message)
        if (frame := message.header.frame_id) != self._base_frame:
            raise ValueError(f"its poses are in frame '{frame}', not in base_frame '{self._base_frame}': not used")
        self._taken(Measured(pose), stamp_ns)

    def _joints(self, topic: str, message: JointState) -> None:
        names, positions, stamp_ns = conversions.read_joints(message)
        measured = self._adapter.joints_seen(topic, names, positions, stamp_ns)
        self._taken(measured, stamp_ns)

    def _taken(self, measured: Measured, stamp_ns: int) -> None:
        """Tell the bridge what was measured; and, of a pose that it takes, adapter and everybody else."""
        taken = self._on_measured(measured, stamp_ns)
        if measured.pose is not None and taken:
            self._adapter.pose_seen(measured.pose)
            self._shown.pose("robot/ee_pose", measured.pose, stamp_ns)
        if measured.opening is not None:
            self._shown.opening(measured.opening, stamp_ns)

    def _trajectory(self, topic: str, message: Any) -> None:
        names, positions = conversions.read_trajectory(message)
        self._adapter.trajectory_seen(topic, names, positions)

    def _mode(self, topic: str, data: bytes) -> None:
        self._modes[topic] = (self._modes[topic][0], data, time.monotonic())

    def _look_at_modes(self) -> None:
        for topic, (kind, data, at) in self._modes.items():
            if time.monotonic() - at > MODE_SILENCE:
                what = f"{topic} was not heard for {MODE_SILENCE:g} s"
                self._on_fault(f"{what}: {self._adapter.silence}" if self._adapter.silence else what)
            elif data is not None:
                self._on_fault(self._adapter.fault(int(deserialize_message(data, kind).robot_mode)))

    # ---- services --------------------------------------------------------------------------------

    def _call(self, calls: Sequence[Call]) -> None:
        """Call services in turn, on a node of their own: this one's executor is busy with the transition."""
        if not calls:
            return
        with temporary_node(self._node, "calls") as (node, executor):
            for call in calls:
                client = node.create_client(load(call.kind), call.service)
                if not client.wait_for_service(timeout_sec=self._timeout):
                    raise TimeoutError(f"service {call.service} is not there: {call.remedy}")
                request = conversions.filled(load(call.kind).Request, call.fields)  # type: ignore[attr-defined]
                future = client.call_async(request)
                executor.spin_until_future_complete(future, timeout_sec=self._timeout)
                if not future.done():
                    what = f"service {call.service} did not answer within {self._timeout:g} s"
                    raise TimeoutError(f"{what}: {call.remedy}")
                _expect(call, future.result())


class _Running:
    """A goal under way."""

    def __init__(self, timeout: float) -> None:
        self.timeout, self.deadline = timeout, time.monotonic() + timeout
        self.cancelled = False
        self._handle: Any = None

    def accepted(self, handle: Any) -> None:
        """Its server took it; a goal that was cancelled before that is so now."""
        self._handle = handle
        if self.cancelled:
            handle.cancel_goal_async()

    def cancel(self) -> None:
        """Ask its server to end it, which is waited for a while."""
        if self.cancelled:
            return
        self.cancelled, self.deadline = True, time.monotonic() + CANCEL_TIME
        if self._handle is not None:
            self._handle.cancel_goal_async()


def failure(result: Any, status: int) -> str:
    """Why a goal did not succeed; '' when it did, or when the hand stalled, which is how a hand comes to hold things.

    (ros2_controllers end a goal whose fingers stall as aborted, unless their `allow_stalling` is set.)
    """
    done = status == GoalStatus.STATUS_SUCCEEDED and getattr(result, "success", True)
    if done or (status == GoalStatus.STATUS_ABORTED and getattr(result, "stalled", False)):
        return ""
    return getattr(result, "error", "") or "no reason given"


def _expect(call: Call, answer: Any) -> None:
    """RuntimeError naming what a service answered, unless each field is as `Call.expect` says."""
    expected: Mapping[str, object] = call.expect
    for name, wanted in expected.items():
        value = getattr(answer, name)
        values = [value] if isinstance(value, (bool, int, float, str)) else list(value)
        right = tuple(values) == wanted if isinstance(wanted, tuple) else {*values} == {wanted}
        if not right:
            raise RuntimeError(f"{call.service} says {name} = {values}, not {wanted}: {call.remedy}")
