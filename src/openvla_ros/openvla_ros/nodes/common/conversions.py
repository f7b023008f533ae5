"""To and from ROS messages: the only place that writes the fields of commands, or relies on received ones.

rclpy does not check fields: a numpy scalar, an int in a float field or a short list is published as garbage, without
an error. So every number that is sent passes `number`, and every list a length check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose as PoseMessage, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Header, String

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common.message_types import load
from openvla_ros.robots.adapter import Command, Fields, JointGroup, JointSingle, Opening, PoseTarget, TwistTarget

# Messages of packages that not every robot needs are named, and loaded when used.
MESSAGE_OF: dict[type, type | str] = {
    PoseTarget: PoseStamped, TwistTarget: TwistStamped, Opening: Float64,
    JointGroup: "interbotix_xs_msgs/msg/JointGroupCommand", JointSingle: "interbotix_xs_msgs/msg/JointSingleCommand",
}  # fmt: skip
GRIPPER_JOINT = "gripper"


# ---- checked values ------------------------------------------------------------------------------


def number(value: object, name: str) -> float:
    """Convert a value to a finite float.

    Args:
        value: The value.
        name: Name of the field, for the error.

    Returns:
        The float.

    Raises:
        ValueError: The value is not finite.
    """
    result = float(value)  # type: ignore[arg-type]
    if not math.isfinite(result):
        raise ValueError(f"{name} is {result}; only finite numbers are sent")
    return result


def numbers(values: Sequence[object] | np.ndarray, name: str, length: int | None = None) -> list[float]:
    """Convert values to a list of finite floats.

    Args:
        values: The values.
        name: Name of the field, for the error.
        length: Required length; None: any.

    Returns:
        The list.

    Raises:
        ValueError: A value is not finite, or the length is wrong.
    """
    result = [number(v, name) for v in values]
    if length is not None and len(result) != length:
        raise ValueError(f"{name} has {len(result)} values, not {length}")
    return result


def time_message(stamp_ns: int) -> Time:
    """Convert nanoseconds to a Time.

    Args:
        stamp_ns: Time since the epoch [ns].

    Returns:
        The message.

    Raises:
        ValueError: The time is before the epoch.
    """
    stamp_ns = int(stamp_ns)
    if stamp_ns < 0:
        raise ValueError(f"stamp {stamp_ns} ns is negative")
    return Time(sec=stamp_ns // 1_000_000_000, nanosec=stamp_ns % 1_000_000_000)


def stamp_ns(time: Time) -> int:
    """A Time as nanoseconds."""
    return int(time.sec) * 1_000_000_000 + int(time.nanosec)


def header(at_ns: int, frame: str = "") -> Header:
    """A header."""
    return Header(stamp=time_message(at_ns), frame_id=str(frame))


def text(value: str) -> String:
    """A String."""
    return String(data=str(value))


# ---- robot ---------------------------------------------------------------------------------------


def pose_message(pose: Pose, frame: str, at_ns: int) -> PoseStamped:
    """A pose in a frame."""
    x, y, z = numbers(pose.position, "position", 3)
    qx, qy, qz, qw = numbers(pose.quaternion, "quaternion", 4)
    inner = PoseMessage(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
    return PoseStamped(header=header(at_ns, frame), pose=inner)


def read_pose(message: PoseStamped) -> tuple[Pose, int]:
    """Read a pose and its stamp [ns]; ValueError if it is malformed."""
    p, q = message.pose.position, message.pose.orientation
    return Pose.of((p.x, p.y, p.z), (q.x, q.y, q.z, q.w)), stamp_ns(message.header.stamp)


def joint_message(
    names: Sequence[str], positions: Sequence[float] | np.ndarray, velocities: Sequence[float] | np.ndarray, at_ns: int
) -> JointState:
    """Joint positions [rad or 0 … 1] and velocities [per second] (may be empty)."""
    return JointState(
        header=header(at_ns),
        name=[str(n) for n in names],
        position=numbers(positions, "joint position", len(names)),
        velocity=numbers(velocities, "joint velocity", len(names) if len(velocities) else 0),
    )


def gripper_message(opening: float, at_ns: int) -> JointState:
    """A measured gripper opening, 0 closed … 1 open."""
    return joint_message([GRIPPER_JOINT], [opening], [], at_ns)


def read_joints(message: JointState) -> tuple[list[str], list[float], int]:
    """Read names and positions of joints, and their stamp [ns]; ValueError if a position is not finite."""
    names, positions = [str(n) for n in message.name], numbers(message.position, "joint position")
    return names, positions, stamp_ns(message.header.stamp)


def read_trajectory(message: Any) -> tuple[list[str], list[float]]:
    """Read the last point of a JointTrajectory.

    Args:
        message: The trajectory.

    Returns:
        Names and positions [rad] of the joints.

    Raises:
        ValueError: There is no point, or a position is not finite.
    """
    if not message.points:
        raise ValueError("the trajectory has no points")
    names, last = [str(n) for n in message.joint_names], message.points[-1].positions
    return names, numbers(last, "the trajectory's last positions", len(names))


def read_gripper(message: JointState) -> tuple[float, int]:
    """Read a gripper's state.

    Args:
        message: Message of gripper/state.

    Returns:
        The opening, 0 closed … 1 open, and its stamp [ns].

    Raises:
        ValueError: There is no finite position.
    """
    if not message.position or not math.isfinite(message.position[0]):
        raise ValueError("gripper/state has no finite position[0]")
    return float(message.position[0]), stamp_ns(message.header.stamp)


def opening_message(opening: float) -> Float64:
    """Make a gripper command.

    Args:
        opening: 0 closed … 1 open.

    Returns:
        The message.

    Raises:
        ValueError: The opening is outside 0 … 1.
    """
    value = number(opening, "gripper opening")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"gripper opening {value} is not 0 … 1")
    return Float64(data=value)


def message_type(kind: type) -> type:
    """The message class of a kind of command; ImportError, with the package's name, if it is not installed."""
    found = MESSAGE_OF[kind]
    return load(found) if isinstance(found, str) else found


def command_message(command: Command) -> object:
    """Convert an adapter's command to the message of its topic.

    Args:
        command: The command.

    Returns:
        The message.

    Raises:
        ValueError: A value is malformed.
        TypeError: It is no command.
    """
    if isinstance(command, PoseTarget):
        norm = math.hypot(*numbers(command.pose.quaternion, "quaternion", 4))
        if abs(norm - 1.0) > 1e-6:
            raise ValueError(f"quaternion of a target has length {norm}, not 1")
        return pose_message(command.pose, command.frame, command.stamp_ns)
    if isinstance(command, TwistTarget):
        (x, y, z), (rx, ry, rz) = numbers(command.linear, "speed", 3), numbers(command.angular, "angular speed", 3)
        twist = Twist(linear=Vector3(x=x, y=y, z=z), angular=Vector3(x=rx, y=ry, z=rz))
        return TwistStamped(header=header(command.stamp_ns, command.frame), twist=twist)
    if isinstance(command, Opening):
        return opening_message(command.opening)
    if isinstance(command, JointGroup):
        positions = numbers(command.positions, f"positions of {command.group}", command.count)
        return message_type(JointGroup)(name=str(command.group), cmd=positions)
    if isinstance(command, JointSingle):
        value = number(command.value, f"command of {command.joint}")
        return message_type(JointSingle)(name=str(command.joint), cmd=value)
    raise TypeError(f"no message for a {type(command).__name__}")


def filled(kind: type, fields: Fields, name: str = "") -> object:
    """Make a message (a goal, a request) from its fields, each converted to its type.

    Args:
        kind: Class of the message.
        fields: Values by name.
        name: Name of the message, for errors; '': that of its class.

    Returns:
        The message.

    Raises:
        ValueError: A field does not exist, or its value cannot be converted.
    """
    message = kind()
    types = kind.get_fields_and_field_types()  # type: ignore[attr-defined]
    name = name or kind.__name__
    for key, value in fields.items():
        if key not in types:
            raise ValueError(f"{name} has no field '{key}'; it has {', '.join(types)}")
        if isinstance(value, Mapping):
            made: object = filled(type(getattr(message, key)), value, f"{name}.{key}")
        elif types[key] in ("float", "double"):
            made = number(value, f"{name}.{key}")
        elif types[key] == "sequence<double>":
            made = numbers(value, f"{name}.{key}")
        elif types[key] == "sequence<string>":
            made = [str(v) for v in value]
        elif types[key] == "boolean":
            made = bool(value)
        elif types[key] == "string":
            made = str(value)
        elif "int" in types[key] and float(value) == int(value):
            made = int(value)
        else:
            raise ValueError(f"{name}.{key} is {value!r}; it takes {types[key]}")
        setattr(message, key, made)
    return message
