"""The teleoperation node's parameters, and how they become the configurations of the pure parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openvla_ros.parameters import Parameter as P
from openvla_ros.teleop.frames import FRAMES
from openvla_ros.teleop.joystick import JoyMap
from openvla_ros.teleop.operator import Speed
from openvla_ros.teleop.operator_input import COMMANDS

Get = Callable[[str], Any]
DEVICES = ("keyboard", "joy", "twist", "leader")
JOY_LISTS = ("axes", "gains", "plus", "minus")
JOY_SINGLE = (
    "deadman",
    "clutch",
    "slow",
    "fast",
    "gripper_axis",
    "gripper_open",
    "gripper_closed",
    "dead_zone",
    "curve",
)
TRANSPORTS = ("raw", "compressed", "info")


def _button(name: str, what: str) -> P:
    return P(f"joy.{name}", -1, f"Button: {what}; -1 = none", low=-1, high=63)


PARAMETERS = (
    P("mode", "act", "act: publish actions. guide: the arm is led by hand; only episodes are started and stopped here",
      choices=("act", "guide")),
    P("device", "keyboard", "What the operator holds. leader: a PoseStamped, with the buttons of a Joy",
      choices=DEVICES),
    P("rate", 10.0, "Actions a second (streaming control); their period is its inverse", "Hz", 1.0, 100.0),
    P("speed.linear", 0.1, "Full speed", "m/s", 0.001, 1.0, live=True),
    P("speed.angular", 0.5, "Full angular speed", "rad/s", 0.01, 3.0, live=True),
    P("speed.slow", 0.3, "Factor of the slow button", "1", 0.01, 1.0, live=True),
    P("speed.fast", 2.0, "Factor of the fast button", "1", 1.0, 5.0, live=True),
    P("device_timeout", 0.3, "A device silent for longer moves nothing, and the deadman must be held anew (wall clock)",
      "s", 0.05, 5.0),
    P("frame", "base", "Axes that the device's x forward, y left, z up move along", choices=FRAMES),
    P("frame.yaw", 0.0, "Turns the device's axes about z first: where the operator stands", "rad", -6.3, 6.3),
    P("frame.matrix", [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0], "frame custom: rotation device → base, row by row",
      low=-1.0, high=1.0, length=9),
    P("frame.camera_position", [1.0, 0.0, 0.5], "frame camera: where it stands, base frame", "m", -10.0, 10.0,
      length=3),
    P("frame.camera_look_at", [0.0, 0.0, 0.0], "frame camera: the point in its middle", "m", -10.0, 10.0, length=3),
    P("base_frame", "panda_link0", "Frame the actions are expressed in"),
    P("instruction", "", "Sentence published on `instruction`; '' = somebody else does", live=True),
    P("operator_note", "", "Free text kept with every episode started here", live=True),
    P("observation.topic", "camera/image_raw", "Images whose newest stamp an action carries"),
    P("observation.transport", "raw", "raw, compressed (the topic's /compressed), or info: the topic is a CameraInfo, "
      "which costs least", choices=TRANSPORTS),
    P("state_age", 0.3, "frame end_effector: oldest robot/ee_pose to turn the device's axes by", "s", 0.01, 10.0),
    P("keyboard.hold", 0.25, "A key counts as held for so long after its last character", "s", 0.05, 1.0),
    P("joy.topic", "joy", "Topic of the gamepad, SpaceMouse or the leader's buttons (sensor_msgs/Joy)"),
    P("joy.axes", [-1, -1, -1, -1, -1, -1], "Axis of x y z roll pitch yaw; -1 = none", low=-1, high=63, length=6),
    P("joy.gains", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0], "Gain of each; -1 turns it round", low=-1.0, high=1.0, length=6),
    P("joy.plus", [-1, -1, -1, -1, -1, -1], "Button that moves each at full speed", low=-1, high=63, length=6),
    P("joy.minus", [-1, -1, -1, -1, -1, -1], "Button that moves each the other way", low=-1, high=63, length=6),
    P("joy.dead_zone", 0.1, "Deflection that does nothing", "1", 0.0, 0.9),
    P("joy.curve", 1.5, "Power of deflection → speed; above 1 is finer in the middle", "1", 1.0, 5.0),
    P("joy.deadman", -1, "Button to hold; -1 = any deflection counts as holding (not with a leader)", low=-1, high=63),
    _button("clutch", "to hold besides the deadman"),
    _button("slow", "slow while held"),
    _button("fast", "fast while held"),
    P("joy.gripper_axis", -1, "Axis that opens and closes the hand; -1 = none, see joy.gripper", low=-1, high=63),
    P("joy.gripper_open", 1.0, "Its reading when the hand is to be open", low=-1.0, high=1.0),
    P("joy.gripper_closed", -1.0, "Its reading when the hand is to be closed", low=-1.0, high=1.0),
    _button("gripper", "opens or closes the hand"),
    _button("start", "starts an episode"),
    _button("success", "ends it as a success"),
    _button("failure", "ends it as a failure"),
    _button("discard", "ends it and deletes its bag"),
    _button("e_stop", "emergency stop"),
    P("twist.topic", "spacenav/twist", "Topic of a twist device (geometry_msgs/Twist)"),
    P("twist.linear", 1.0, "Its linear reading at full deflection", "1", 1e-6, 1e6),
    P("twist.angular", 1.0, "Its angular reading at full deflection", "1", 1e-6, 1e6),
    P("leader.topic", "leader/pose", "Topic of the leader (geometry_msgs/PoseStamped)"),
    P("leader.scale", 1.0, "Metres of the arm for a metre of the leader", "1", 0.05, 5.0),
    P("leader.max_jump", 0.15, "Two poses farther apart are a fault of the tracking", "m", 0.01, 1.0),
    P("leader.max_lag", 0.1, "Farther behind the leader the arm does not follow up", "m", 0.005, 1.0),
    P("leader.max_turn_lag", 0.5, "Likewise for rotation", "rad", 0.05, 3.0),
)  # fmt: skip


def speed_of(get: Get) -> Speed:
    """Speeds and period."""
    named = {name: get(f"speed.{name}") for name in ("linear", "angular", "slow", "fast")}
    return Speed(period=1.0 / get("rate"), **named)


def joy_map(get: Get) -> JoyMap:
    """The Joy's meaning; ValueError when it contradicts itself, or a leader has no button to hold."""
    if get("device") == "leader" and get("joy.deadman") < 0:
        raise ValueError("a leader moves all the time: set 'joy.deadman' to the button that is held while it leads")
    given: dict[str, Any] = {name: tuple(get(f"joy.{name}")) for name in JOY_LISTS}
    given |= {name: get(f"joy.{name}") for name in JOY_SINGLE}
    return JoyMap(**given, commands={c: get(f"joy.{c}") for c in COMMANDS if get(f"joy.{c}") >= 0})
