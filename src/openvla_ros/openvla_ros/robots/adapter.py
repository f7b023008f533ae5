"""What a robot understands: an adapter turns targets into commands, described as data.

An adapter knows no ROS: it names topics, services and actions and gives plain values, which `nodes.messages` turns into
messages at the one place that casts and checks them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from openvla_ros.geometry import Pose, Vector

Fields = Mapping[str, Any]  # numbers, booleans, text, or fields of a message inside


@dataclass(frozen=True)
class PoseTarget:
    """An end-effector pose to pull towards, in `frame` (becomes geometry_msgs/PoseStamped)."""

    pose: Pose
    frame: str
    stamp_ns: int


@dataclass(frozen=True)
class TwistTarget:
    """An end-effector velocity [m/s, rad/s] along the axes of `frame` (becomes geometry_msgs/TwistStamped)."""

    linear: Vector
    angular: Vector
    frame: str
    stamp_ns: int


@dataclass(frozen=True)
class Opening:
    """A gripper opening to reach, 0 closed … 1 open (becomes std_msgs/Float64)."""

    opening: float


@dataclass(frozen=True)
class JointGroup:
    """Positions [rad] of a group of joints, in the group's order (becomes interbotix_xs_msgs/JointGroupCommand)."""

    group: str
    positions: tuple[float, ...]
    count: int  # joints of the group: a list of another length would command other joints


@dataclass(frozen=True)
class JointSingle:
    """A command of one motor in the unit of its mode (becomes interbotix_xs_msgs/JointSingleCommand)."""

    joint: str
    value: float


@dataclass(frozen=True)
class Goal:
    """An action goal. A newer goal of the same bridge cancels it, and so does `timeout` [s]."""

    kind: str  # as `franka_msgs/action/Move`
    fields: Fields
    timeout: float


@dataclass(frozen=True)
class Call:
    """A service call before the robot may move; what is not as in `expect` refuses the transition."""

    service: str
    kind: str  # as `std_srvs/srv/SetBool`
    fields: Fields
    expect: Mapping[str, object] = field(default_factory=dict)  # a tuple: the very list; else each value of a list
    remedy: str = ""


Command = PoseTarget | TwistTarget | Opening | JointGroup | JointSingle | Goal
Sent = Sequence[tuple[str, Command]]


@dataclass(frozen=True)
class Source:
    """A topic the robot's state comes on.

    pose: PoseStamped; joints: JointState; mode: a robot's own fault state; servo: MoveIt Servo's status; trajectory:
    the joint positions that Servo wants, a JointTrajectory.
    """

    topic: str
    what: Literal["pose", "joints", "mode", "servo", "trajectory"]
    kind: str  # message type, as `sensor_msgs/msg/JointState`


@dataclass(frozen=True)
class LastWill:
    """What is said in a bridge's place when it is gone, or has hung for `within` [s] since it made this will.

    For commands that a robot obeys until it hears another one, such as a motor's raw effort.
    """

    commands: Sequence[tuple[str, JointSingle]]
    within: float


POSE, JOINTS = "geometry_msgs/msg/PoseStamped", "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"


@dataclass(frozen=True)
class Measured:
    """What a state message says: the end effector's pose, a gripper opening 0 … 1, or neither."""

    pose: Pose | None = None
    opening: float | None = None


class RobotAdapter:
    """One robot's face, and its defaults. Every method returns (topic, command) pairs, published in that order."""

    topics: Sequence[tuple[str, type]] = ()  # every topic it may name, with the kind of command
    actions: Sequence[tuple[str, str]] = ()  # every action it may name, with its type
    sources: Sequence[Source] = (Source("robot/ee_pose", "pose", POSE), Source("gripper/state", "joints", JOINTS))
    recovery: tuple[str, Goal] | None = None  # what an operator may ask for after a fault of the robot
    after_recovery: str = ""  # what else there is to do before enabling again
    clipped: tuple[str, ...] = ()  # limits of its own that cut the newest target
    silence: str = ""  # what to do when its own fault state is not heard any more
    settling: float = 0.0  # [s] that its controller needs between the last target and the calls at deactivate
    will_topics: Sequence[str] = ()  # topics of its last wills; () = it never makes one
    will: LastWill | None = None  # the present one

    def setup(self) -> Sequence[Call]:
        """Calls at configure."""
        return ()

    def start(self) -> Sequence[Call]:
        """Calls at activate."""
        return ()

    def stop(self) -> Sequence[Call]:
        """Calls at deactivate, after the target came to rest; their failure changes nothing any more."""
        return ()

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """Commands that move the controller's set-point to `pose`, called at the restream rate."""
        raise NotImplementedError

    def gripper(self, opening: float) -> Sent:
        """Commands for a new gripper opening 0 … 1, called only when it changes."""
        raise NotImplementedError

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Commands that follow from time alone, called at the restream rate. permitted: the arm may move."""
        return ()

    def rest(self, stamp_ns: int) -> Sent:
        """Commands when the stream of targets has ended: the next one begins anew."""
        return ()

    def pose_seen(self, pose: Pose) -> None:
        """A measured end-effector pose, of whatever source."""

    def joints_seen(self, topic: str, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """What joint positions [rad or m] on one of the `sources` say; ValueError when joints are missing."""
        if not positions:
            raise ValueError(f"{topic} has no position[0]")
        return Measured(opening=float(positions[0]))

    def servo_seen(self, code: int) -> None:
        """MoveIt Servo's status code."""

    def trajectory_seen(self, topic: str, names: Sequence[str], positions: Sequence[float]) -> None:
        """The last point [rad] of the trajectory that MoveIt Servo wants; ValueError when joints are missing."""

    def fault(self, mode: int) -> str:
        """Why the robot itself does not move in this `mode`, '' when it does."""
        return ""


def positions_of(topic: str, wanted: Sequence[str], names: Sequence[str], positions: Sequence[float]) -> list[float]:
    """The positions of the joints `wanted`; ValueError naming those that the message lacks."""
    found = dict(zip(names, positions, strict=False))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"{topic} has no joint {', '.join(missing)}; it has {', '.join(names) or 'none'}")
    return [float(found[name]) for name in wanted]
