"""Parameters of the teleoperation node, and the configurations of its components that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from openvla_ros.parameters import ManagedNodeParameters, parameter
from openvla_ros.teleop.frames import FRAMES
from openvla_ros.teleop.joystick import JoyMap
from openvla_ros.teleop.operator import Speed
from openvla_ros.teleop.operator_input import COMMANDS

DEVICES = ("keyboard", "joy", "twist", "leader")
TRANSPORTS = ("raw", "compressed", "info")
# Fields of JoyMap that are parameters of the same name.
_JOY_FIELDS = (
    "axes", "gains", "plus", "minus", "deadman", "clutch", "slow", "fast", "gripper_axis", "gripper_open",
    "gripper_closed", "dead_zone", "curve",
)  # fmt: skip


def _button(what: str) -> int:
    return parameter(-1, f"Button: {what}; -1 = none", low=-1, high=63)


@dataclass(frozen=True)
class SpeedParameters:
    """Speed of the arm: `speed.*`."""

    linear: float = parameter(0.1, "Full speed", "m/s", 0.001, 1.0, live=True)
    angular: float = parameter(0.5, "Full angular speed", "rad/s", 0.01, 3.0, live=True)
    slow: float = parameter(0.3, "Factor of the slow button", "1", 0.01, 1.0, live=True)
    fast: float = parameter(2.0, "Factor of the fast button", "1", 1.0, 5.0, live=True)


@dataclass(frozen=True)
class FrameParameters:
    """Axes along which the device moves the arm: `frame` and `frame.*`."""

    kind: str = parameter(
        "base", "Axes along which the device's x forward, y left, z up move the arm", choices=FRAMES, name=""
    )
    yaw: float = parameter(0.0, "Rotates the device's axes about z first: where the operator stands", "rad", -6.3, 6.3)
    matrix: tuple[float, ...] = parameter(
        (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
        "frame custom: rotation device → base, row by row",
        low=-1.0,
        high=1.0,
        length=9,
    )
    camera_position: tuple[float, float, float] = parameter(
        (1.0, 0.0, 0.5), "frame camera: position of the camera, base frame", "m", -10.0, 10.0, length=3
    )
    camera_look_at: tuple[float, float, float] = parameter(
        (0.0, 0.0, 0.0), "frame camera: the point in the middle of its image, base frame", "m", -10.0, 10.0, length=3
    )


@dataclass(frozen=True)
class ObservationParameters:
    """The images that an action answers: `observation.*`."""

    topic: str = parameter("camera/image_raw", "Images whose newest stamp an action carries")
    transport: str = parameter(
        "raw",
        "raw, compressed (the topic's /compressed), or info: the topic is a CameraInfo, which costs least",
        choices=TRANSPORTS,
    )


@dataclass(frozen=True)
class KeyboardParameters:
    """The keyboard: `keyboard.*`."""

    hold: float = parameter(0.25, "A key counts as held for this time after its last character", "s", 0.05, 1.0)


@dataclass(frozen=True)
class JoyParameters:
    """Axes and buttons of a gamepad, a SpaceMouse or a leader arm: `joy.*`."""

    topic: str = parameter("joy", "Topic of the gamepad, SpaceMouse or the leader's buttons (sensor_msgs/Joy)")
    axes: tuple[int, ...] = parameter((-1,) * 6, "Axis of x y z roll pitch yaw; -1 = none", low=-1, high=63, length=6)
    gains: tuple[float, ...] = parameter((1.0,) * 6, "Gain of each; -1 reverses the axis", low=-1.0, high=1.0, length=6)
    plus: tuple[int, ...] = parameter((-1,) * 6, "Button that moves each at full speed", low=-1, high=63, length=6)
    minus: tuple[int, ...] = parameter((-1,) * 6, "Button that moves each the other way", low=-1, high=63, length=6)
    dead_zone: float = parameter(0.1, "Deflection without effect", "1", 0.0, 0.9)
    curve: float = parameter(1.5, "Power of deflection → speed; above 1 is finer in the middle", "1", 1.0, 5.0)
    deadman: int = parameter(
        -1, "Button to hold; -1 = any deflection counts as holding (not with a leader)", low=-1, high=63
    )
    clutch: int = _button("to hold besides the deadman")
    slow: int = _button("slow while held")
    fast: int = _button("fast while held")
    gripper_axis: int = parameter(
        -1, "Axis that opens and closes the gripper; -1 = none, see joy.gripper", low=-1, high=63
    )
    gripper_open: float = parameter(1.0, "Its reading for an open gripper", low=-1.0, high=1.0)
    gripper_closed: float = parameter(-1.0, "Its reading for a closed gripper", low=-1.0, high=1.0)
    gripper: int = _button("opens or closes the gripper")
    start: int = _button("starts an episode")
    success: int = _button("ends it as a success")
    failure: int = _button("ends it as a failure")
    discard: int = _button("ends it and deletes its bag")
    e_stop: int = _button("emergency stop")


@dataclass(frozen=True)
class TwistParameters:
    """A device that publishes twists: `twist.*`."""

    topic: str = parameter("spacenav/twist", "Topic of a twist device (geometry_msgs/Twist)")
    linear: float = parameter(1.0, "Its linear reading at full deflection", "1", 1e-6, 1e6)
    angular: float = parameter(1.0, "Its angular reading at full deflection", "1", 1e-6, 1e6)


@dataclass(frozen=True)
class LeaderParameters:
    """A leader arm or a tracked controller: `leader.*`."""

    topic: str = parameter("leader/pose", "Topic of the leader (geometry_msgs/PoseStamped)")
    scale: float = parameter(1.0, "Metres of the arm for a metre of the leader", "1", 0.05, 5.0)
    max_jump: float = parameter(0.15, "Two poses farther apart are a fault of the tracking", "m", 0.01, 1.0)
    max_lag: float = parameter(0.1, "The arm does not catch up what is farther behind the leader", "m", 0.005, 1.0)
    max_turn_lag: float = parameter(0.5, "Likewise for rotation", "rad", 0.05, 3.0)


@dataclass(frozen=True)
class TeleopParameters(ManagedNodeParameters):
    """Parameters of the teleoperation node."""

    node: ClassVar[str] = "teleop_node"

    mode: str = parameter(
        "act",
        "act: publish actions. guide: the arm is guided by hand; only episodes are started and stopped here",
        choices=("act", "guide"),
    )
    device: str = parameter(
        "keyboard",
        "What the operator holds. leader: a PoseStamped, with the buttons of a Joy",
        choices=DEVICES,
    )
    rate: float = parameter(10.0, "Actions a second (streaming control); their period is its inverse", "Hz", 1.0, 100.0)
    speed: SpeedParameters = field(default_factory=SpeedParameters)
    device_timeout: float = parameter(
        0.3,
        "A device silent for longer moves nothing, and the deadman must be released and held again (wall clock)",
        "s",
        0.05,
        5.0,
    )
    frame: FrameParameters = field(default_factory=FrameParameters)
    base_frame: str = parameter("panda_link0", "Frame of the actions")
    instruction: str = parameter("", "Instruction published on `instruction`; '' = another node does", live=True)
    operator_note: str = parameter("", "Free text kept with every episode started here", live=True)
    observation: ObservationParameters = field(default_factory=ObservationParameters)
    state_age: float = parameter(
        0.3, "frame end_effector: oldest robot/ee_pose to rotate the device's axes by", "s", 0.01, 10.0
    )
    keyboard: KeyboardParameters = field(default_factory=KeyboardParameters)
    joy: JoyParameters = field(default_factory=JoyParameters)
    twist: TwistParameters = field(default_factory=TwistParameters)
    leader: LeaderParameters = field(default_factory=LeaderParameters)


def speed_of(parameters: TeleopParameters) -> Speed:
    """Speeds and the time of an action."""
    speed = parameters.speed
    return Speed(speed.linear, speed.angular, speed.slow, speed.fast, period=1.0 / parameters.rate)


def joy_map(parameters: TeleopParameters) -> JoyMap:
    """Meaning of the axes and buttons of the Joy.

    Args:
        parameters: Parameters of the node.

    Returns:
        The mapping.

    Raises:
        ValueError: The mapping contradicts itself, or a leader has no button to hold.
    """
    joy = parameters.joy
    if parameters.device == "leader" and joy.deadman < 0:
        raise ValueError("a leader moves all the time: set 'joy.deadman' to the button that is held while it leads")
    commands = {name: getattr(joy, name) for name in COMMANDS if getattr(joy, name) >= 0}
    return JoyMap(**{name: getattr(joy, name) for name in _JOY_FIELDS}, commands=commands)
