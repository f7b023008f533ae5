"""The protocol of robot adapters, and the commands that they describe as data.

An adapter knows no ROS: it names topics, services and actions and gives plain values, which the nodes turn into
messages at the one place that converts and checks them (`openvla_ros.nodes.common.conversions`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openvla_ros.geometry import Pose, Vector

Fields = Mapping[str, Any]  # numbers, booleans, text, or the fields of a nested message


@dataclass(frozen=True)
class PoseTarget:
    """An end-effector pose to move to, in `frame` (becomes geometry_msgs/PoseStamped)."""

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
    """An action goal."""

    kind: str  # such as `franka_msgs/action/Move`
    fields: Fields


@dataclass(frozen=True)
class Call:
    """A service call in a lifecycle transition, which fails if the answer is not as in `expect`."""

    service: str
    kind: str  # such as `std_srvs/srv/SetBool`
    fields: Fields
    expect: Mapping[str, object] = field(default_factory=dict)  # a tuple: this very list; else: each value of a list
    remedy: str = ""


Command = PoseTarget | TwistTarget | Opening | JointGroup | JointSingle | Goal
Sent = Sequence[tuple[str, Command]]


@dataclass(frozen=True)
class StopOrders:
    """Commands that the stop guard sends if the bridge is gone, or hangs.

    For commands that a robot follows until it receives another one, such as a motor's raw effort.

    Attributes:
        commands: Topics and commands, in order.
        within: Time after which a bridge that has not given new orders is taken to hang [s].
    """

    commands: Sequence[tuple[str, JointSingle]]
    within: float


@dataclass(frozen=True)
class Measured:
    """What a message of the robot reports.

    Attributes:
        pose: Pose of the end effector, base frame; None if not reported.
        opening: Opening of the gripper, 0 closed … 1 open; None if not reported.
        fault: Why the robot itself does not move, '' if it does; None if not reported.
    """

    pose: Pose | None = None
    opening: float | None = None
    fault: str | None = None


NOTHING = Measured()
# Message types of the topics that an adapter reads, and what their handlers are called with.
POSE = "geometry_msgs/msg/PoseStamped"  # pose, stamp [ns]
JOINTS = "sensor_msgs/msg/JointState"  # names, positions [rad or m], stamp [ns]
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"  # names, positions [rad] of the last point
SERVO_STATUS = "moveit_msgs/msg/ServoStatus"  # status code
FRANKA_STATE = "franka_msgs/msg/FrankaRobotState"  # robot mode


@dataclass(frozen=True)
class Handler:
    """What takes in the values of a topic's messages.

    Attributes:
        kind: Message type, one of those above.
        read: Called with the values of a message, returns what they report; ValueError if something is missing.
        silence: What to do about it when the topic falls silent; only for topics that report the robot's fault state.
    """

    kind: str
    read: Callable[..., Measured]
    silence: str = ""


class RobotAdapter:
    """One robot's interface, with the defaults. Commands are (topic, command) pairs, published in that order."""

    topics: Sequence[tuple[str, type]] = ()  # every topic that it commands, with the kind of command
    actions: Sequence[tuple[str, str]] = ()  # every action of the gripper, with its type
    gripper_timeout: float | None = None  # [s] longest gripper goal; None: gripper commands have no result
    recovery: tuple[str, Goal] | None = None  # action and goal of the robot's own error recovery
    recovery_timeout: float = 10.0  # [s]
    after_recovery: str = ""  # what else to do before enabling again
    clipped: tuple[str, ...] = ()  # limits of its own that cut the newest target
    settling: float = 0.0  # [s] that its controller needs between the last target and the calls at deactivate
    guarded_topics: Sequence[str] = ()  # topics of its stop orders; (): it gives none
    stop_orders: StopOrders | None = None  # the present ones

    def __init__(self) -> None:
        """Read the stack's own topics."""
        self.sources: Mapping[str, Handler] = {
            "robot/ee_pose": Handler(POSE, self.read_pose),
            "gripper/state": Handler(JOINTS, self.read_joints),
        }

    def setup(self) -> Sequence[Call]:
        """Calls at configure."""
        return ()

    def start(self) -> Sequence[Call]:
        """Calls at activate."""
        return ()

    def stop(self) -> Sequence[Call]:
        """Calls at deactivate, after the target has come to rest; a failure is only logged."""
        return ()

    def target(self, pose: Pose, stamp_ns: int) -> Sent:
        """Commands that move the controller's set-point to `pose` (base frame), called at the restream rate."""
        raise NotImplementedError

    def gripper(self, opening: float) -> Sent:
        """Commands for a new gripper opening, 0 closed … 1 open; called only when it changes."""
        raise NotImplementedError

    def tick(self, stamp_ns: int, permitted: bool) -> Sent:
        """Commands that follow from time alone, called at the restream rate. permitted: the arm may move."""
        return ()

    def rest(self, stamp_ns: int) -> Sent:
        """Commands when the stream of targets has ended; a new stream follows later."""
        return ()

    def pose_accepted(self, pose: Pose) -> None:
        """Take in a measured pose that the bridge accepted, whatever its source."""

    def read_pose(self, pose: Pose, stamp_ns: int) -> Measured:
        """Read a measured pose."""
        return Measured(pose)

    def read_joints(self, names: Sequence[str], positions: Sequence[float], stamp_ns: int) -> Measured:
        """Read joint positions [rad or m]: the first is the gripper's opening.

        Args:
            names: Names of the joints.
            positions: Their positions.
            stamp_ns: Stamp of the message [ns].

        Returns:
            What they report.

        Raises:
            ValueError: Joints are missing.
        """
        if not positions:
            raise ValueError("no position[0]")
        return Measured(opening=float(positions[0]))


def positions_of(wanted: Sequence[str], names: Sequence[str], positions: Sequence[float]) -> list[float]:
    """Select the positions of the joints `wanted`.

    Args:
        wanted: Names of joints.
        names: Names in a message.
        positions: Positions in the message, in the order of `names`.

    Returns:
        The positions, in the order of `wanted`.

    Raises:
        ValueError: The message lacks some of the joints.
    """
    found = dict(zip(names, positions, strict=False))
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(f"no joint {', '.join(missing)}; the message has {', '.join(names) or 'none'}")
    return [float(found[name]) for name in wanted]
