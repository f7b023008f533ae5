"""A person moves the arm: keyboard, gamepad, SpaceMouse or leader → the same ActionChunk as a policy's.

The chunks pass the same safety gate and carry the stamp of the newest image, so a demonstration is recorded and
converted as a policy's run is. Blocking or streaming is the bridge's choice, told by safety/state: in streaming an
action goes out each period, in blocking one for each READY. In mode `guide` no action is ever published: the arm is
led by hand, its measured poses are recorded, and only the episode buttons do something here.
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
from openvla_ros.nodes.teleop.dashboard import Face, Shown
from openvla_ros.nodes.teleop.parameters import PARAMETERS, joy_map, speed_of
from openvla_ros.recording.cdr import header_stamp_ns
from openvla_ros.teleop.e_stop_button import StopButton
from openvla_ros.teleop.frames import END_EFFECTOR, device_rotation
from openvla_ros.teleop.joystick import read_twist
from openvla_ros.teleop.keyboard import Keyboard
from openvla_ros.teleop.leader_arm import Follower, LeaderPose
from openvla_ros.teleop.operator import Operator
from openvla_ros.teleop.operator_input import STILL, Demand, DeviceError
from openvla_ros.teleop.terminal_keys import Keys

POLL = 0.02  # [s] between two looks at the keyboard
KNOCK = 0.5  # [s] a gate that holds is asked again this often: a hold may end with a new action, or need a person
STOPPED = "EMERGENCY STOP; to go on: publish false on e_stop, then call bridge_node/reset_e_stop"
NOT_STOPPED = "NO BRIDGE HAS ANSWERED THE EMERGENCY STOP: use the robot's own"
BUSY = "the action before is being executed"
IMAGES = {"raw": Image, "compressed": CompressedImage, "info": CameraInfo}


class TeleopNode(ManagedNode):
    """The node around an :class:`Operator`."""

    PARAMETERS = PARAMETERS

    def __init__(self) -> None:
        super().__init__("teleop_node")
        self._keys: Keys | None = None
        self._face: Face | None = None
        self._recorder: RecorderClient | None = None

    # ---- lifecycle -------------------------------------------------------------------------------

    def configure(self) -> None:  # noqa: D102
        get = self.value
        self._guiding, device = get("mode") == "guide", get("device")
        self._speed, self._timeout = speed_of(get), get("device_timeout")
        self._fixed = device_rotation(
            get("frame"), get("frame.yaw"), get("frame.matrix"), get("frame.camera_position"),
            get("frame.camera_look_at"),
        )  # fmt: skip
        lag = (get("leader.max_lag"), get("leader.max_turn_lag"))
        self._follower = Follower(get("leader.scale"), lag, get("leader.max_jump")) if device == "leader" else None
        self._operator = Operator(self._speed, self._timeout, self._follower)
        self._joy_map, self._joy = joy_map(get), Demand()
        self._joy_at = self._twist_at = self._leader_at = -1e9  # [s, steady] when each spoke last
        self._twist: tuple[float, ...] = STILL
        self._keyboard = Keyboard(get("keyboard.hold"))
        self._measured: tuple[Pose, int] | None = None
        self._image_ns: int | None = None
        self._safety: SafetyState | None = None
        self._handshake, self._sequence = ReadyHandshake(), 0
        self._knocked = -1e9
        self._instruction = self._said = ""
        self._note, self._news = "", ""
        self._last: tuple[float, ...] | None = None
        self._recorded: RecorderStatus | None = None
        if device == "keyboard":
            self._keys = Keys()
            self._operator.unheld = "no key is held"
        self._chunks = None if self._guiding else self.publisher(ActionChunk, "policy/action_chunk", STATE)
        e_stop = self.publisher(Bool, "e_stop", STATE)
        self._stop = StopButton(lambda: e_stop.publish(Bool(data=True)), lambda: self._tell(False, NOT_STOPPED))
        self._instructions = self.publisher(String, "instruction", LATCHED)
        self._listen(device)
        self._recorder = RecorderClient(self, self._tell)
        self.timer(1.0 / get("rate"), self._act)
        self.timer(POLL, self._poll, steady=True)
        if sys.stdout.isatty():
            self._face = Face(self._keys is not None)

    def _listen(self, device: str) -> None:
        get = self.value
        if device != "keyboard":
            self.subscribe(Joy, get("joy.topic"), self._on_joy, SENSOR)
        if device == "twist":
            self.subscribe(Twist, get("twist.topic"), self._on_twist, SENSOR)
        if device == "leader":
            self.subscribe(PoseStamped, get("leader.topic"), self._on_leader, SENSOR)
        self.subscribe(String, "instruction", self._on_instruction, LATCHED)
        self.subscribe(RecorderStatus, "recorder/status", self._on_recorder, LATCHED)
        if self._guiding:
            return
        self.subscribe(SafetyState, "safety/state", self._on_safety, LATCHED)
        self.subscribe(PoseStamped, "robot/ee_pose", self._on_pose, SENSOR)
        self.subscribe(JointState, "gripper/state", self._on_gripper, SENSOR)
        self.subscribe(Header, "robot/restarted", self._on_restarted, STATE)
        transport = get("observation.transport")
        self._image_topic = get("observation.topic") + ("/compressed" if transport == "compressed" else "")
        self.subscribe(IMAGES[transport], self._image_topic, self._on_image, SENSOR, raw=True)

    def activate(self) -> None:  # noqa: D102
        self._operator.lose("no message of the device yet")
        self._handshake.reset()

    def deactivate(self) -> None:  # noqa: D102
        self._last = None

    def release(self) -> None:  # noqa: D102
        if self._face is not None:
            self._face.close()
            self._face = None
        if self._keys is not None:
            self._keys.close()
            self._keys = None
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    def diagnose(self) -> tuple[bool, str, dict[str, object]]:  # noqa: D102
        if not self.active:
            return not self.fault, self.fault, {}
        return not self.fault, self.fault or self._state(), {"actions": self._sequence, "episode": self._news}

    # ---- the device ------------------------------------------------------------------------------

    def _on_joy(self, message: Joy) -> None:
        if self._stop.feel(self._joy_map.stop(message.buttons)):
            self._tell(False, STOPPED)
        try:
            self._joy = self._joy_map.read(message.axes, message.buttons)
        except DeviceError as error:
            self._device_fault(error)
            return
        self._joy_at = time.monotonic()
        if self.value("device") == "joy":
            self._feel(self._joy)
        else:
            self._feel_both()

    def _on_twist(self, message: Twist) -> None:
        linear, angular = message.linear, message.angular
        try:
            self._twist = read_twist(
                (linear.x, linear.y, linear.z), (angular.x, angular.y, angular.z),
                (self.value("twist.linear"), self.value("twist.angular")),
                self.value("joy.dead_zone"), self.value("joy.curve"),
            )  # fmt: skip
        except DeviceError as error:
            self._device_fault(error)
            return
        self._twist_at = time.monotonic()
        self._feel_both()

    def _on_leader(self, message: PoseStamped) -> None:
        assert self._follower is not None
        try:
            pose = conversions.read_pose(message)[0]
            self._follower.seen(LeaderPose(np.array(pose.position), Rotation.from_quat(pose.quaternion)))
        except ValueError as error:  # a DeviceError is one
            self._device_fault(error)
            return
        self._leader_at = time.monotonic()
        self._feel_both()

    def _feel_both(self) -> None:
        """Motion comes from one topic and buttons from another: both must be alive."""
        moving_at = self._leader_at if self._follower is not None else self._twist_at
        by_motion = self.value("device") == "twist" and self.value("joy.deadman") < 0
        now = time.monotonic()
        if now - moving_at > self._timeout or (not by_motion and now - self._joy_at > self._timeout):
            return  # and the operator finds the device silent
        held = self._twist != STILL if by_motion else self._joy.held
        self._feel(Demand(self._twist, held, self._joy.speed, self._joy.opening, self._joy.pressed))

    def _device_fault(self, error: Exception) -> None:
        self._operator.lose(str(error))
        self.get_logger().error(str(error), throttle_duration_sec=2.0)

    def _feel(self, demand: Demand) -> None:
        for command in self._operator.feel(demand, time.monotonic()):
            self._command(command)

    def _poll(self) -> None:
        """Keys, the sentence, and what the operator looks at."""
        if self._keys is not None:
            now = time.monotonic()
            for key in self._keys.take():
                command = self._keyboard.press(key, now)
                if command == "e_stop":
                    self._stop.press()
                    self._tell(False, STOPPED)
                elif command == "gripper" and self.active:
                    self._operator.toggle_gripper()
                elif command:
                    self._command(command)
            if self.active:
                self._feel(self._keyboard.demand(now))
        self._stop.look(self._safety is not None and self._safety.state == SafetyState.ESTOP)
        wanted = self.value("instruction")
        if self.active and wanted != self._said:
            self._said = wanted
            self._instructions.publish(conversions.text(wanted))
        if self._face is not None:
            self._face.show(self._shown())

    # ---- commands --------------------------------------------------------------------------------

    def _command(self, name: str) -> None:
        if not self.active or self._recorder is None:
            return
        self._recorder.command(name, self.value("operator_note") if name == "start" else "")

    def _tell(self, fine: bool, line: str) -> None:
        self._news = line
        if self._face is None:
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
            self._operator.measured(conversions.read_gripper(message)[0])
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=2.0)

    def _on_restarted(self, message: Header) -> None:
        self._operator.gripper = None  # it is wherever the restart put it
        self._measured = None

    # ---- actions ---------------------------------------------------------------------------------

    def _act(self) -> None:
        """Once a period: the action of the moment, if everything allows one."""
        if not self.active or self._guiding:
            return
        self._last, self._note = None, self._waiting_for()
        if self._note:
            if self._note != BUSY and self._follower is not None:
                self._follower.release()
            return
        self._operator.speed = speed_of(self.value)
        action = self._operator.action(time.monotonic(), self._mapping())
        if action is None:
            return
        assert self._chunks is not None and self._safety is not None and self._image_ns is not None
        if (again := self._handshake.mark_sent()) and self._safety.control_mode == "blocking":
            self.get_logger().warning(again)
        self._knocked, self._last = time.monotonic(), action
        chunk = action_messages.chunk_message(
            [action], frame=self.value("base_frame"), at_ns=self.now_ns(), observation=self._image_stamp(),
            sequence=self._sequence, source=ActionChunk.SOURCE_TELEOP, instruction=self._instruction,
            period=self._operator.speed.period,
        )  # fmt: skip
        self._sequence += 1
        self._chunks.publish(chunk)

    def _image_stamp(self) -> Time:
        assert self._image_ns is not None
        return conversions.time_message(self._image_ns)

    def _mapping(self) -> Rotation:
        if self.value("frame") != END_EFFECTOR:
            return self._fixed
        assert self._measured is not None
        return Rotation.from_quat(self._measured[0].quaternion) * self._fixed

    def _waiting_for(self) -> str:
        """Why no action may go out now, whatever the operator does; '' when one may."""
        safety = self._safety
        if safety is None:
            return "no bridge: safety/state was never heard"
        if safety.state in (SafetyState.INACTIVE, SafetyState.ESTOP):
            return f"the bridge is stopped: {safety.reason}"
        if safety.source not in ("", ActionChunk.SOURCE_TELEOP):
            return f"'{safety.source}' is in command of the bridge, not teleop: bridge_node/switch_source changes that"
        if self._image_ns is None:
            return f"no image yet on {self._image_topic}"
        if self.value("frame") == END_EFFECTOR:
            age = (self.now_ns() - self._measured[1]) * 1e-9 if self._measured else float("inf")
            if age > self.value("state_age"):
                return f"no fresh robot/ee_pose to turn the device's axes by ({age:.1f} s old)"
        if safety.control_mode == "blocking":
            may_act = self._handshake.is_open(self._image_ns)
            return "" if may_act else f"holding: {safety.reason}" if safety.state == SafetyState.HOLD else BUSY
        knocking = time.monotonic() - self._knocked < KNOCK
        return f"holding: {safety.reason}" if safety.state == SafetyState.HOLD and knocking else ""

    # ---- what the operator sees ------------------------------------------------------------------

    def _state(self) -> str:
        if self._guiding:
            return "guiding: lead the arm by hand"
        if self._last is not None:
            return "moving" if any(self._last[:6]) else "holding the arm still"
        return self._note if self._note not in ("", BUSY) else self._operator.reason or "moving"

    def _shown(self) -> Shown:
        largest = self._operator.speed
        return Shown(
            active=self.active, guiding=self._guiding, device=self.value("device"), frame=self.value("frame"),
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
