"""Executes action chunks on a robot: newest chunk → schedule → safety gate → target pose → restream → adapter.

The node holds the clocks, the topics and the adapter; every decision is made by `bridge_core`, which knows no ROS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from openvla_msgs.msg import ActionChunk, SafetyState
from openvla_msgs.srv import ResetEStop, SwitchSource
from rclpy.parameter import Parameter
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import SetBool, Trigger

from openvla_ros.control.bridge import BridgeCore
from openvla_ros.control.target_pose import BASE, END_EFFECTOR
from openvla_ros.nodes.bridge.parameters import TF_STATIC, BridgeParameters, core_config, robot_adapter
from openvla_ros.nodes.bridge.robot_interface import RobotLink
from openvla_ros.nodes.bridge.static_tf import camera_axes
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import EMERGENCY_STOP, LATCHED, SENSOR, STATE
from openvla_ros.robots.adapter import Measured
from openvla_ros.safety.gate import Chunk, Gate, State
from openvla_ros.safety.permission import DEADMAN, JOYSTICK
from openvla_ros.safety.watchdogs import Now

T = TypeVar("T")
HEARTBEAT = 0.1  # [s] safety/state is published at least this often


class BridgeNode(ManagedNode[BridgeParameters]):
    """The bridge of one robot."""

    def __init__(self) -> None:
        super().__init__(BridgeParameters)
        self._core: BridgeCore | None = None  # while configured
        self._gate: Gate | None = None  # the newest one's, whose emergency stop outlives it
        self._robot: RobotLink | None = None  # likewise
        self._moving = False  # targets were sent that the adapter has not been told the end of
        self._published: tuple[Gate, bool] | None = None
        self.add_post_set_parameters_callback(lambda _: self._look())  # the operator's switch is a live parameter

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:  # noqa: D102
        simulated = bool(self.get_parameter("use_sim_time").value)
        config = core_config(self._with_camera_axes(), simulated_time=simulated)
        self._base_frame = self.parameters.base_frame
        self._adapter = robot_adapter(self.parameters)
        self._core, self._moving = BridgeCore(config, self._gate), False
        self._safety = self.publisher(SafetyState, "safety/state", LATCHED)
        timeout = self.parameters.call_timeout
        self._robot = RobotLink(self, self._adapter, self._on_measured, self._on_fault, timeout)
        self.subscribe(Header, "robot/restarted", self._on_restarted, STATE)
        for qos in EMERGENCY_STOP:
            self.subscribe(Bool, "e_stop", self._on_e_stop, qos)
        self.subscribe(ActionChunk, "policy/action_chunk", self._on_chunk, STATE)
        self.subscribe(String, "policy/stop", self._on_stop, STATE)
        mode, topic = config.permission.mode, self.parameters.enable.topic
        if mode == DEADMAN:
            self.subscribe(Bool, topic, self._on_deadman, SENSOR)
        elif mode == JOYSTICK:
            self.subscribe(Joy, topic, self._on_joystick, SENSOR)
        self.serve(SetBool, "~/enable", self._on_enable)
        self.serve(Trigger, "~/e_stop", self._on_e_stop_call)
        self.serve(ResetEStop, "~/reset_e_stop", self._on_reset_e_stop)
        self.serve(SwitchSource, "~/switch_source", self._on_switch_source)
        self.serve(Trigger, "~/recover_robot", self._on_recover)
        # A system clock that is set back must not stop the targets: only a simulator's is worth waiting for.
        self.timer(config.period, self._tick, steady=not simulated)
        self.timer(HEARTBEAT, self._beat, steady=True)
        self._published = None
        self._do(lambda core, now: core.enable(self.parameters.enabled, now))

    def _with_camera_axes(self) -> BridgeParameters:
        """The parameters, with the camera's axes from /tf_static where camera.transform says so."""
        given = self.parameters
        if not given.camera_frame or given.camera.transform != TF_STATIC:
            return given
        fixed_to = {given.base_frame: BASE, given.end_effector_frame: END_EFFECTOR}
        parent, axes = camera_axes(self, given.camera_frame, fixed_to, given.call_timeout)
        self.get_logger().info(
            f"'{given.camera_frame}' is fixed to the {parent} (/tf_static), its axes there (x y z w): "
            f"{[round(v, 4) for v in axes]}"
        )
        return replace(given, camera=replace(given.camera, parent=parent, quaternion=axes))

    def activate(self) -> None:  # noqa: D102
        self._link.start()
        self._do(lambda core, now: core.activate(now))

    def deactivate(self) -> None:  # noqa: D102
        self._do(lambda core, now: core.deactivate(now))
        self._come_to_rest()
        self._link.stop()

    def release(self) -> None:  # noqa: D102
        if self._core is not None:
            self._gate = self._core.gate
        self._core = self._robot = None

    @property
    def _link(self) -> RobotLink:
        assert self._robot is not None
        return self._robot

    def _come_to_rest(self) -> None:
        """Send the last targets from here: the executor is in this transition or gone, and its timers with it.

        Only then may the robot's controller be told that it is over: one that is paused in motion may go on for ever.
        """
        core, began = self._core, self._now()
        while core is not None and core.stopping:
            time.sleep(core.config.period)
            passed = time.monotonic_ns() - began.steady
            if passed > 1.5e9 * core.config.gate.limits.stop_time:
                break
            now = Now(began.node + passed, began.steady + passed)  # (simulated time stands still meanwhile)
            self._do(lambda core, _, now=now: core.tick(now))  # type: ignore[misc]

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:  # noqa: D102
        if self._core is None:
            return not self.fault, self.fault or "not configured", {}
        core, gate = self._core, self._core.gate
        fine = not self.fault and gate.state not in (State.HOLD, State.ESTOP)
        values = {
            "source": gate.source,
            "refused": gate.refused_count,
            "refused_for": ", ".join(gate.refused),
            "clipped": ", ".join(gate.clipped),
            "refused_since_activation": ", ".join(f"{name} {count}" for name, count in core.refused.items()),
            "clipped_since_activation": ", ".join(f"{name} {count}" for name, count in core.clipped.items()),
            "executed": gate.executed_sequence,
            "emergency_stop_reset": f"by {gate.reset_by} at {gate.reset_ns / 1e9:.3f}" if gate.reset_by else "",
            **{f"{name}_age": f"{age:.3f} s" for name, age in core.ages(self._now()).items()},
        }
        return fine, self.fault or f"{gate.state.name}: {gate.reason}", values

    # ---- what comes in ---------------------------------------------------------------------------

    def _on_measured(self, measured: Measured, stamp_ns: int) -> bool:
        """Whether a measured pose was taken; one that is old or out of order is not."""
        pose, opening = measured.pose, measured.opening
        if opening is not None:
            self._do(lambda core, now: core.gripper_seen(opening, stamp_ns, now))
        return pose is not None and bool(self._do(lambda core, now: core.pose_seen(pose, stamp_ns, now)))

    def _on_fault(self, reason: str) -> None:
        self._do(lambda core, now: core.fault(reason, now))

    def _on_restarted(self, message: Header) -> None:
        self._do(lambda core, now: core.restarted(conversions.stamp_ns(message.stamp), now))

    def _on_e_stop(self, message: Bool) -> None:
        self._do(lambda core, now: core.e_stop(bool(message.data), now))

    def _on_deadman(self, message: Bool) -> None:
        self._do(lambda core, now: core.hold_button(bool(message.data), now))

    def _on_joystick(self, message: Joy) -> None:
        button = self.parameters.enable.button
        held = button < len(message.buttons) and bool(message.buttons[button])
        self._do(lambda core, now: core.hold_button(held, now))

    def _on_chunk(self, message: ActionChunk) -> None:
        chunk = action_messages.read_chunk(message)
        self._do(lambda core, now: core.chunk(chunk, now))

    def _on_stop(self, message: String) -> None:
        """A source asks for a stop in the middle of its action: to the gate, a chunk without actions."""
        source = str(message.data)
        self._do(lambda core, now: core.chunk(Chunk((), "", now.node, now.node, 0, source, 0.0), now))

    # ---- the operator's services -----------------------------------------------------------------

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.set_parameters([Parameter("enabled", value=bool(request.data))])
        self._look()
        response.success, response.message = True, self._said()
        return response

    def _on_e_stop_call(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """It latches like the button, and waits for nothing but the reset; a button that is pressed stays so."""
        self._do(lambda core, now: core.e_stop_by_word(now))
        response.success, response.message = True, self._said()
        return response

    def _on_reset_e_stop(self, request: ResetEStop.Request, response: ResetEStop.Response) -> ResetEStop.Response:
        assert self._core is not None
        response.success, response.message = self._core.reset_e_stop(request.operator_name, self._now())
        self._look()
        return response

    def _on_switch_source(
        self, request: SwitchSource.Request, response: SwitchSource.Response
    ) -> SwitchSource.Response:
        assert self._core is not None
        response.success, response.message = self._core.switch_source(request.source, self._now())
        self._look()
        return response

    def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The robot's own error recovery, for an operator who has looked why; the arm then waits to be enabled."""
        self.set_parameters([Parameter("enabled", value=False)])
        self._look()
        response.success, response.message = self._link.recover()
        return response

    def _said(self) -> str:
        assert self._core is not None
        return f"{self._core.gate.state.name}: {self._core.gate.reason}"

    # ---- what goes out ---------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self.now_ns(), time.monotonic_ns())

    def _tick(self) -> None:
        self._do(lambda core, now: core.tick(now))
        core = self._core
        if core is not None:
            permitted = self._moving and core.gate.state is State.EXECUTING
            self._link.send(self._adapter.tick(self.now_ns(), permitted))

    def _look(self) -> None:
        self._do(lambda core, now: core.enable(self.parameters.enabled, now))

    def _beat(self) -> None:
        self._published = None
        self._look()
        self._link.check()

    def _do(self, what: Callable[[BridgeCore, Now], T]) -> T | None:
        """Let the core take something in, then send, log and publish what came of it; its answer."""
        core = self._core
        if core is None:
            return None
        answer = what(core, self._now())
        outputs, notes = core.take()
        for output in outputs:
            if output.pose is not None:
                self._moving = True
                self._link.send(self._adapter.target(output.pose, output.stamp_ns))
                self._link.show_target(output.pose, output.stamp_ns)
                core.cut(self._adapter.clipped, self._now())
            else:
                self._link.send(self._adapter.gripper(output.opening if output.opening is not None else 0.0))
        if self._moving and core.gate.state is not State.EXECUTING and not core.stopping:
            self._moving = False
            self._link.send(self._adapter.rest(self.now_ns()))
        stands = core.gate.state in (State.HOLD, State.ESTOP, State.INACTIVE)
        # In blocking control not within an action: its motion comes after the hand's (gripper.first), and would never.
        between = not core.blocking or core.gate.state is not State.EXECUTING
        if self._robot is not None and (
            (between and self._link.take_unheard()) or (stands and self._link.drop_waiting())
        ):
            core.forget_hand()
        for note in notes:
            if not self.closing:
                self.get_logger().warning(note)
        visible = (replace(core.gate, clock=None, newest_at=None), core.stopping)
        if visible != self._published:
            self._published = visible
            mode, at_ns = core.config.gate.mode, self.now_ns()
            self._safety.publish(
                action_messages.safety_message(core.gate, mode, self._base_frame, at_ns, core.stopping)
            )
        return answer


def main() -> None:
    """Entry point."""
    main_of(BridgeNode)


if __name__ == "__main__":
    main()
