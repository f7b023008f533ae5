"""Executes action chunks on a robot: newest chunk → schedule → safety gate → target pose → restream → adapter.

The node holds clocks, topics and services. It passes every event on to `openvla_ros.control.bridge`, which decides and
knows no ROS, and applies the commands that come back.
"""

from __future__ import annotations

import time
from dataclasses import replace

from openvla_msgs.msg import ActionChunk, SafetyState
from openvla_msgs.srv import ResetEStop, SwitchSource
from rclpy.parameter import Parameter
from sensor_msgs.msg import Joy
from std_msgs.msg import Bool, Header, String
from std_srvs.srv import SetBool, Trigger

from openvla_policy.contract.action import StampedChunk
from openvla_ros.control.bridge import BridgeCore
from openvla_ros.control.commands import Commands
from openvla_ros.control.target_pose import BASE, END_EFFECTOR
from openvla_ros.nodes.bridge.parameters import TF_STATIC, BridgeParameters, core_config, robot_adapter
from openvla_ros.nodes.bridge.robot_interface import RobotInterface
from openvla_ros.nodes.bridge.static_tf import camera_axes
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import EMERGENCY_STOP, LATCHED, SENSOR, STATE
from openvla_ros.robots.adapter import Measured
from openvla_ros.safety import gate as safety
from openvla_ros.safety.gate import Gate, State
from openvla_ros.safety.permission import DEADMAN, JOYSTICK
from openvla_ros.safety.watchdogs import Now

HEARTBEAT = 0.1  # [s] longest time between two messages on safety/state


class BridgeNode(ManagedNode[BridgeParameters]):
    """The bridge of one robot."""

    def __init__(self) -> None:
        super().__init__(BridgeParameters)
        self._core: BridgeCore | None = None  # while configured
        self._robot: RobotInterface | None = None  # likewise
        self._gate: Gate | None = None  # of the last core: its emergency stop outlives it
        self._moving = False  # targets may be sent, as of the newest commands
        self._published: tuple[Gate, bool] | None = None
        # The operator's switch is a live parameter.
        self.add_post_set_parameters_callback(lambda _: self._update_enabled())

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:
        simulated = bool(self.get_parameter("use_sim_time").value)
        adapter = robot_adapter(self.parameters)
        config = replace(
            core_config(self._with_camera_axes(), simulated_time=simulated),
            gripper_timeout=adapter.gripper_timeout,
            recovery_timeout=adapter.recovery_timeout,
        )
        self._base_frame = self.parameters.base_frame
        self._core, self._moving = BridgeCore(config, self._gate), False
        self._safety = self.publisher(SafetyState, "safety/state", LATCHED)
        self._robot = RobotInterface(self, adapter, self, self.parameters.call_timeout)
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
        self.serve(Trigger, "~/e_stop", self._on_e_stop_service)
        self.serve(ResetEStop, "~/reset_e_stop", self._on_reset_e_stop)
        self.serve(SwitchSource, "~/switch_source", self._on_switch_source)
        self.serve(Trigger, "~/recover_robot", self._on_recover)
        # A system clock that is set back must not stop the targets: only simulated time is waited for.
        self.timer(config.period, self._tick, steady=not simulated)
        self.timer(HEARTBEAT, self._on_heartbeat, steady=True)
        self._published = None
        self._update_enabled()

    def _with_camera_axes(self) -> BridgeParameters:
        """The parameters; with the camera's orientation from /tf_static if `camera.transform` asks for that."""
        given = self.parameters
        if not given.camera_frame or given.camera.transform != TF_STATIC:
            return given
        fixed_to = {given.base_frame: BASE, given.end_effector_frame: END_EFFECTOR}
        parent, axes = camera_axes(self, given.camera_frame, fixed_to, given.call_timeout)
        self.get_logger().info(
            f"'{given.camera_frame}' is fixed to the {parent} (/tf_static), orientation (x y z w): "
            f"{[round(v, 4) for v in axes]}"
        )
        return replace(given, camera=replace(given.camera, parent=parent, quaternion=axes))

    def activate(self) -> None:
        assert self._core is not None and self._robot is not None
        self._robot.start()
        self._apply(self._core.activate(self._now()))

    def deactivate(self) -> None:
        assert self._core is not None and self._robot is not None
        self._apply(self._core.deactivate(self._now()))
        self._come_to_rest()
        self._robot.stop()

    def release(self) -> None:
        if self._core is not None:
            self._gate = self._core.gate
        self._core = self._robot = None

    def _come_to_rest(self) -> None:
        """Send the last targets from here: the executor is busy with this transition, or has ended.

        Only after that the robot's controller may be paused: one that is paused in motion may keep its velocity.
        """
        core, began = self._core, self._now()
        while core is not None and core.stream.braking:
            time.sleep(core.config.period)
            passed = time.monotonic_ns() - began.steady
            if passed > 1.5e9 * core.config.gate.limits.stop_time:
                break
            # (Simulated time stands still meanwhile.)
            self._apply(core.tick(Now(began.node + passed, began.steady + passed)))

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        if self._core is None:
            return not self.fault, self.fault or "not configured", {}
        core, gate = self._core, self._core.gate
        fine = not self.fault and gate.state not in (State.HOLD, State.ESTOP)
        ages = safety.ages(gate, core.robot.seen, self._now())
        values = {
            "source": gate.source,
            "refused": gate.refused_count,
            "refused_for": ", ".join(gate.refused),
            "clipped": ", ".join(gate.clipped),
            "refused_since_activation": ", ".join(f"{name} {count}" for name, count in core.counters.refused.items()),
            "clipped_since_activation": ", ".join(f"{name} {count}" for name, count in core.counters.clipped.items()),
            "executed": gate.executed_sequence,
            "emergency_stop_reset": f"by {gate.reset_by} at {gate.reset_ns / 1e9:.3f}" if gate.reset_by else "",
            **{f"{name}_age": f"{age:.3f} s" for name, age in ages.items()},
        }
        return fine, self.fault or f"{gate.state.name}: {gate.reason}", values

    # ---- events of the robot ---------------------------------------------------------------------

    def on_measured(self, measured: Measured, stamp_ns: int) -> bool:
        """Take in a measurement; whether its pose was accepted: one that is old or out of order is not."""
        if self._core is None:
            return False
        if measured.opening is not None:
            self._apply(self._core.gripper_opening(measured.opening, stamp_ns, self._now()))
        if measured.pose is None:
            return False
        commands = self._core.robot_pose(measured.pose, stamp_ns, self._now())
        self._apply(commands)
        return commands.accepted

    def on_fault(self, reason: str) -> None:
        """Take in why the robot does not move; '' if it does."""
        if self._core is not None:
            self._apply(self._core.fault(reason, self._now()))

    def on_goal_accepted(self, goal: int) -> None:
        """Take in that the server of a goal accepted it."""
        if self._core is not None:
            self._apply(self._core.goal_accepted(goal, self._now()))

    def on_goal_ended(self, goal: int, reached_server: bool, failure: str) -> None:
        """Take in that a goal ended, or was refused."""
        if self._core is not None:
            self._apply(self._core.goal_ended(goal, self._now(), reached_server=reached_server, failure=failure))

    def _on_restarted(self, message: Header) -> None:
        if self._core is not None:
            self._apply(self._core.robot_restarted(conversions.stamp_ns(message.stamp), self._now()))

    # ---- events of policy and operator -----------------------------------------------------------

    def _on_chunk(self, message: ActionChunk) -> None:
        if self._core is not None:
            self._apply(self._core.chunk(action_messages.read_chunk(message), self._now()))

    def _on_stop(self, message: String) -> None:
        """A source asks for a stop within its action: for the gate, a chunk without actions."""
        if self._core is not None:
            now = self._now()
            self._apply(self._core.chunk(StampedChunk((), "", now.node, now.node, 0, str(message.data), 0.0), now))

    def _on_e_stop(self, message: Bool) -> None:
        if self._core is not None:
            self._apply(self._core.e_stop(bool(message.data), self._now()))

    def _on_deadman(self, message: Bool) -> None:
        if self._core is not None:
            self._apply(self._core.hold_button(bool(message.data), self._now()))

    def _on_joystick(self, message: Joy) -> None:
        if self._core is not None:
            button = self.parameters.enable.button
            held = button < len(message.buttons) and bool(message.buttons[button])
            self._apply(self._core.hold_button(held, self._now()))

    # ---- the operator's services -----------------------------------------------------------------

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.set_parameters([Parameter("enabled", value=bool(request.data))])
        self._update_enabled()
        response.success, response.message = True, self._state_text()
        return response

    def _on_e_stop_service(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Latch like the button, but without a release to wait for; a button that is pressed stays pressed."""
        assert self._core is not None
        self._apply(self._core.e_stop_from_service(self._now()))
        response.success, response.message = True, self._state_text()
        return response

    def _on_reset_e_stop(self, request: ResetEStop.Request, response: ResetEStop.Response) -> ResetEStop.Response:
        assert self._core is not None
        commands = self._core.reset_e_stop(request.operator_name, self._now())
        self._apply(commands)
        response.success, response.message = commands.accepted, commands.message
        return response

    def _on_switch_source(
        self, request: SwitchSource.Request, response: SwitchSource.Response
    ) -> SwitchSource.Response:
        assert self._core is not None
        commands = self._core.switch_source(request.source, self._now())
        self._apply(commands)
        response.success, response.message = commands.accepted, commands.message
        return response

    def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The robot's own error recovery, for an operator who knows the cause; the arm then waits to be enabled."""
        assert self._core is not None and self._robot is not None
        self.set_parameters([Parameter("enabled", value=False)])
        self._update_enabled()
        if missing := self._robot.recovery_missing():
            response.success, response.message = False, missing
            return response
        commands = self._core.recover(self._now())
        self._apply(commands)
        response.success = commands.accepted
        response.message = commands.message or self._robot.recovery_steps
        return response

    def _state_text(self) -> str:
        assert self._core is not None
        return f"{self._core.gate.state.name}: {self._core.gate.reason}"

    # ---- time ------------------------------------------------------------------------------------

    def _now(self) -> Now:
        return Now(self.now_ns(), time.monotonic_ns())

    def _tick(self) -> None:
        if self._core is not None and self._robot is not None:
            self._apply(self._core.tick(self._now()))
            self._robot.tick(self.now_ns(), self._moving)

    def _update_enabled(self) -> None:
        if self._core is not None:
            self._apply(self._core.enable(self.parameters.enabled, self._now()))

    def _on_heartbeat(self) -> None:
        self._published = None
        self._update_enabled()
        if self._core is not None:  # on the steady clock too: a simulator that is paused stops the ticks
            self._apply(self._core.check_goals(self._now()))
        if self._robot is not None:
            self._robot.check_guard()

    # ---- commands --------------------------------------------------------------------------------

    def _apply(self, commands: Commands) -> None:
        """Send, log and publish what the core answered to an event."""
        core, robot = self._core, self._robot
        if core is None:
            return
        later: list[Commands] = []
        if robot is not None:
            for cancel in commands.goals.cancel:
                robot.cancel(cancel)
            gripper, recovery = commands.goals.gripper, commands.goals.recovery
            if gripper is not None and not robot.send_gripper(gripper):
                later.append(core.goal_ended(gripper.goal, self._now(), reached_server=False))
            if recovery is not None and not robot.recover(recovery):
                later.append(core.goal_ended(recovery, self._now(), reached_server=False))
            if clipped := [name for target in commands.targets for name in robot.send_target(target)]:
                later.append(core.target_clipped(clipped, self._now()))
            if commands.stream_ended:
                robot.end_stream(self.now_ns())
        self._moving = commands.moving
        for note in commands.notes:
            if not self.closing:
                self.get_logger().warning(note)
        if not later:
            self._publish(commands)
        for further in later:
            self._apply(further)

    def _publish(self, commands: Commands) -> None:
        """Publish safety/state if it changed."""
        visible = (replace(commands.state, clock=None, newest_at=None), commands.braking)
        if self._core is None or visible == self._published:
            return
        self._published = visible
        mode, at_ns = self._core.config.gate.mode, self.now_ns()
        message = action_messages.safety_message(commands.state, mode, self._base_frame, at_ns, commands.braking)
        self._safety.publish(message)


def main() -> None:
    """Entry point."""
    main_of(BridgeNode)


if __name__ == "__main__":
    main()
