"""Teleoperation: keyboard, gamepad, SpaceMouse or leader arm in, the same ActionChunk as a policy's out.

The chunks pass the same safety gate and carry the stamp of the newest image, so that a demonstration is recorded and
converted like a run of the policy. The bridge chooses blocking or streaming control (safety/state): in streaming an
action is published each period, in blocking one for each READY. In mode `guide` no action is published: the arm is
guided by hand, its measured poses are recorded, and only the episode buttons have an effect.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import PoseStamped, Twist
from openvla_msgs.msg import ActionChunk, RecorderStatus, SafetyState
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState, Joy
from std_msgs.msg import Bool, Header, String

from openvla_ros.control.ready_handshake import ReadyHandshake
from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.process import main_of
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE
from openvla_ros.nodes.recorder.client import RecorderClient
from openvla_ros.nodes.teleop.dashboard import POLL_RATE, Dashboard, DashboardState
from openvla_ros.nodes.teleop.parameters import TeleopParameters, joy_map, speed_of
from openvla_ros.recording.cdr import header_stamp_ns
from openvla_ros.teleop.e_stop_button import EStopButton
from openvla_ros.teleop.frames import END_EFFECTOR, device_rotation
from openvla_ros.teleop.joystick import read_twist
from openvla_ros.teleop.keyboard import Keyboard
from openvla_ros.teleop.leader_arm import Follower, LeaderPose
from openvla_ros.teleop.operator import Operator
from openvla_ros.teleop.operator_input import STILL, DeviceError, OperatorInput
from openvla_ros.teleop.terminal_keys import TerminalKeys

RETRY_PERIOD = 0.5  # [s] between two actions to a gate that holds: a hold may end with a new action, or need a person
STOPPED = "EMERGENCY STOP; to continue: publish false on e_stop, then call bridge_node/reset_e_stop"
NOT_STOPPED = "NO BRIDGE HAS CONFIRMED THE EMERGENCY STOP: use the robot's own"
BUSY = "the previous action is being executed"
IMAGES = {"raw": Image, "compressed": CompressedImage, "info": CameraInfo}


class TeleopNode(ManagedNode[TeleopParameters]):
    """The node around an `Operator`."""

    def __init__(self) -> None:
        super().__init__(TeleopParameters)
        self._keys: TerminalKeys | None = None
        self._dashboard: Dashboard | None = None
        self._recorder: RecorderClient | None = None

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:
        self._guiding, device = self.parameters.mode == "guide", self.parameters.device
        self._speed, self._timeout = speed_of(self.parameters), self.parameters.device_timeout
        frame = self.parameters.frame
        self._fixed = device_rotation(frame.kind, frame.yaw, frame.matrix, frame.camera_position, frame.camera_look_at)
        leader = self.parameters.leader
        lag = (leader.max_lag, leader.max_turn_lag)
        self._follower = Follower(leader.scale, lag, leader.max_jump) if device == "leader" else None
        self._operator = Operator(self._speed, self._timeout, self._follower)
        self._joy_map, self._joy = joy_map(self.parameters), OperatorInput()
        self._joy_at = self._twist_at = self._leader_at = -1e9  # [s, steady] of each device's newest message
        self._twist: tuple[float, ...] = STILL
        self._keyboard = Keyboard(self.parameters.keyboard.hold)
        self._measured: tuple[Pose, int] | None = None
        self._image_ns: int | None = None
        self._safety: SafetyState | None = None
        self._handshake, self._sequence = ReadyHandshake(), 0
        self._sent_at = -1e9  # [s, steady] of the newest action
        self._instruction = self._published_instruction = ""
        self._note, self._news = "", ""
        self._last: tuple[float, ...] | None = None
        self._recorded: RecorderStatus | None = None
        if device == "keyboard":
            self._keys = TerminalKeys()
            self._operator.unheld = "no key is held"
        self._chunks = None if self._guiding else self.publisher(ActionChunk, "policy/action_chunk", STATE)
        e_stop = self.publisher(Bool, "e_stop", STATE)
        self._stop = EStopButton(lambda: e_stop.publish(Bool(data=True)), lambda: self._report(False, NOT_STOPPED))
        self._instructions = self.publisher(String, "instruction", LATCHED)
        self._subscribe(device)
        self._recorder = RecorderClient(self, self._report)
        self.timer(1.0 / self.parameters.rate, self._act)
        self.timer(1.0 / POLL_RATE, self._poll, steady=True)
        if sys.stdout.isatty():
            self._dashboard = Dashboard(self._keys is not None)

    def _subscribe(self, device: str) -> None:
        if device != "keyboard":
            self.subscribe(Joy, self.parameters.joy.topic, self._on_joy, SENSOR)
        if device == "twist":
            self.subscribe(Twist, self.parameters.twist.topic, self._on_twist, SENSOR)
        if device == "leader":
            self.subscribe(PoseStamped, self.parameters.leader.topic, self._on_leader, SENSOR)
        self.subscribe(String, "instruction", self._on_instruction, LATCHED)
        self.subscribe(RecorderStatus, "recorder/status", self._on_recorder, LATCHED)
        if self._guiding:
            return
        self.subscribe(SafetyState, "safety/state", self._on_safety, LATCHED)
        self.subscribe(PoseStamped, "robot/ee_pose", self._on_pose, SENSOR)
        self.subscribe(JointState, "gripper/state", self._on_gripper, SENSOR)
        self.subscribe(Header, "robot/restarted", self._on_restarted, STATE)
        transport = self.parameters.observation.transport
        self._image_topic = self.parameters.observation.topic + ("/compressed" if transport == "compressed" else "")
        self.subscribe(IMAGES[transport], self._image_topic, self._on_image, SENSOR, raw=True)

    def activate(self) -> None:
        self._operator.disarm("no message of the device yet")
        self._handshake.reset()

    def deactivate(self) -> None:
        self._last = None

    def release(self) -> None:
        if self._dashboard is not None:
            self._dashboard.close()
            self._dashboard = None
        if self._keys is not None:
            self._keys.close()
            self._keys = None
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:
        if not self.active:
            return not self.fault, self.fault, {}
        return not self.fault, self.fault or self._state(), {"actions": self._sequence, "episode": self._news}

    # ---- the device ------------------------------------------------------------------------------

    def _on_joy(self, message: Joy) -> None:
        if self._stop.update(self._joy_map.stop(message.buttons)):
            self._report(False, STOPPED)
        try:
            self._joy = self._joy_map.read(message.axes, message.buttons)
        except DeviceError as error:
            self._device_fault(error)
            return
        self._joy_at = time.monotonic()
        if self.parameters.device == "joy":
            self._apply(self._joy)
        else:
            self._apply_both()

    def _on_twist(self, message: Twist) -> None:
        linear, angular = message.linear, message.angular
        try:
            self._twist = read_twist(
                (linear.x, linear.y, linear.z), (angular.x, angular.y, angular.z),
                (self.parameters.twist.linear, self.parameters.twist.angular),
                self.parameters.joy.dead_zone, self.parameters.joy.curve,
            )  # fmt: skip
        except DeviceError as error:
            self._device_fault(error)
            return
        self._twist_at = time.monotonic()
        self._apply_both()

    def _on_leader(self, message: PoseStamped) -> None:
        assert self._follower is not None
        try:
            pose = conversions.read_pose(message)[0]
            self._follower.update(LeaderPose(np.array(pose.position), Rotation.from_quat(pose.quaternion)))
        except ValueError as error:  # a DeviceError is one
            self._device_fault(error)
            return
        self._leader_at = time.monotonic()
        self._apply_both()

    def _apply_both(self) -> None:
        """Combine motion and buttons of two topics, both of which must be up to date."""
        moving_at = self._leader_at if self._follower is not None else self._twist_at
        by_motion = self.parameters.device == "twist" and self.parameters.joy.deadman < 0
        now = time.monotonic()
        if now - moving_at > self._timeout or (not by_motion and now - self._joy_at > self._timeout):
            return  # the operator's timeout finds the device silent
        held = self._twist != STILL if by_motion else self._joy.held
        self._apply(OperatorInput(self._twist, held, self._joy.speed, self._joy.opening, self._joy.pressed))

    def _device_fault(self, error: Exception) -> None:
        self._operator.disarm(str(error))
        self.get_logger().error(str(error), throttle_duration_sec=2.0)

    def _apply(self, given: OperatorInput) -> None:
        for command in self._operator.apply(given, time.monotonic()):
            self._command(command)

    def _poll(self) -> None:
        """Process keys, publish the instruction and update the dashboard."""
        if self._keys is not None:
            now = time.monotonic()
            for key in self._keys.drain():
                command = self._keyboard.press(key, now)
                if command == "e_stop":
                    self._stop.press()
                    self._report(False, STOPPED)
                elif command == "gripper" and self.active:
                    self._operator.toggle_gripper()
                elif command:
                    self._command(command)
            if self.active:
                self._apply(self._keyboard.input(now))
        self._stop.poll(self._safety is not None and self._safety.state == SafetyState.ESTOP)
        wanted = self.parameters.instruction
        if self.active and wanted != self._published_instruction:
            self._published_instruction = wanted
            self._instructions.publish(conversions.text(wanted))
        if self._dashboard is not None:
            self._dashboard.update(self._dashboard_state())

    # ---- commands --------------------------------------------------------------------------------

    def _command(self, name: str) -> None:
        if not self.active or self._recorder is None:
            return
        self._recorder.command(name, self.parameters.operator_note if name == "start" else "")

    def _report(self, fine: bool, line: str) -> None:
        self._news = line
        if self._dashboard is None:
            (self.get_logger().info if fine else self.get_logger().warning)(line)

    # ---- the rest of the stack -------------------------------------------------------------------

    def _on_safety(self, message: SafetyState) -> None:
        self._safety = message
        ready_ns = conversions.stamp_ns(message.ready_since) if message.state == SafetyState.READY else 0
        self._handshake.update(ready_ns, message.reason)

    def _on_recorder(self, message: RecorderStatus) -> None:
        self._recorded = message

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data

    def _on_image(self, raw: bytes) -> None:
        self._image_ns = header_stamp_ns(raw)

    def _on_pose(self, message: PoseStamped) -> None:
        try:
            self._measured = conversions.read_pose(message)
        except ValueError as error:
            self.get_logger().error(f"robot/ee_pose: {error}", throttle_duration_sec=2.0)

    def _on_gripper(self, message: JointState) -> None:
        try:
            self._operator.gripper_measured(conversions.read_gripper(message)[0])
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)

    def _on_restarted(self, message: Header) -> None:
        self._operator.gripper = None  # unknown after the restart
        self._measured = None

    # ---- actions ---------------------------------------------------------------------------------

    def _act(self) -> None:
        """Publish the action of this period, if everything allows one."""
        if not self.active or self._guiding:
            return
        self._last, self._note = None, self._waiting_for()
        if self._note:
            if self._note != BUSY and self._follower is not None:
                self._follower.release()
            return
        self._operator.speed = speed_of(self.parameters)
        action = self._operator.action(time.monotonic(), self._mapping())
        if action is None:
            return
        assert self._chunks is not None and self._safety is not None and self._image_ns is not None
        if (again := self._handshake.mark_sent()) and self._safety.control_mode == "blocking":
            self.get_logger().warning(again)
        self._sent_at, self._last = time.monotonic(), action
        chunk = action_messages.chunk_message(
            [action], frame=self.parameters.base_frame, at_ns=self.now_ns(), observation=self._image_stamp(),
            sequence=self._sequence, source=ActionChunk.SOURCE_TELEOP, instruction=self._instruction,
            period=self._operator.speed.period,
        )  # fmt: skip
        self._sequence += 1
        self._chunks.publish(chunk)

    def _image_stamp(self) -> Time:
        assert self._image_ns is not None
        return conversions.time_message(self._image_ns)

    def _mapping(self) -> Rotation:
        if self.parameters.frame.kind != END_EFFECTOR:
            return self._fixed
        assert self._measured is not None
        return Rotation.from_quat(self._measured[0].quaternion) * self._fixed

    def _waiting_for(self) -> str:
        """Why no action may be published now, whatever the operator does; '' when one may."""
        safety = self._safety
        if safety is None:
            return "no bridge: no message on safety/state"
        if safety.state in (SafetyState.INACTIVE, SafetyState.ESTOP):
            return f"the bridge is stopped: {safety.reason}"
        if safety.source not in ("", ActionChunk.SOURCE_TELEOP):
            return f"'{safety.source}' is in command of the bridge, not teleop: bridge_node/switch_source changes that"
        if self._image_ns is None:
            return f"no image yet on {self._image_topic}"
        if self.parameters.frame.kind == END_EFFECTOR:
            age = (self.now_ns() - self._measured[1]) * 1e-9 if self._measured else float("inf")
            if age > self.parameters.state_age:
                return f"no recent robot/ee_pose to rotate the device's axes by ({age:.1f} s old)"
        if safety.control_mode == "blocking":
            may_act = self._handshake.is_open(self._image_ns)
            return "" if may_act else f"holding: {safety.reason}" if safety.state == SafetyState.HOLD else BUSY
        waiting = time.monotonic() - self._sent_at < RETRY_PERIOD
        return f"holding: {safety.reason}" if safety.state == SafetyState.HOLD and waiting else ""

    # ---- dashboard -------------------------------------------------------------------------------

    def _state(self) -> str:
        if self._guiding:
            return "guiding: move the arm by hand"
        if self._last is not None:
            return "moving" if any(self._last[:6]) else "holding the arm still"
        return self._note if self._note not in ("", BUSY) else self._operator.reason or "moving"

    def _dashboard_state(self) -> DashboardState:
        largest = self._operator.speed
        return DashboardState(
            active=self.active, guiding=self._guiding, device=self.parameters.device, frame=self.parameters.frame.kind,
            state=self._state() if self.active else "not active: configure and activate teleop_node",
            action=self._last, gripper=self._operator.gripper, speed=(largest.linear, largest.angular),
            button=self._keyboard.speed if self._keys is not None else self._joy.speed, safety=self._safety,
            instruction=self._instruction, recorder=self._recorded, news=self._news,
        )  # fmt: skip


def main() -> None:
    """Entry point."""
    main_of(TeleopNode)


if __name__ == "__main__":
    main()
