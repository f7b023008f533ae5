"""To and from ROS messages: the only place where message fields are written or trusted.

rclpy does not check fields: a numpy scalar, an int in a float field or a short list is published as garbage, with
no error (shared facts, section 2). So every number that leaves passes `number`, every list a length check.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose as PoseMessage, PoseStamped, Quaternion, Twist, TwistStamped, Vector3
from openvla_msgs.msg import ActionChunk, EndEffectorDelta, PolicyStatus, SafetyState, SceneScore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_msgs.msg import Bool, Float64, Header, String

from openvla_ros.control.target_pose import Pose
from openvla_ros.nodes.images import Picture, encode_jpeg
from openvla_ros.nodes.interfaces import load
from openvla_ros.robots.adapter import Command, Fields, JointGroup, JointSingle, Opening, PoseTarget, TwistTarget
from openvla_ros.safety.gate import Chunk, Gate

# Messages of packages that only one robot has are named, and loaded by whoever needs them.
MESSAGE_OF: dict[type, type | str] = {
    PoseTarget: PoseStamped, TwistTarget: TwistStamped, Opening: Float64,
    JointGroup: "interbotix_xs_msgs/msg/JointGroupCommand", JointSingle: "interbotix_xs_msgs/msg/JointSingleCommand",
}  # fmt: skip
GRIPPER_JOINT = "gripper"


# ---- checked values ------------------------------------------------------------------------------


def number(value: object, name: str) -> float:
    """A finite float, or ValueError naming the field."""
    result = float(value)  # type: ignore[arg-type]
    if not math.isfinite(result):
        raise ValueError(f"{name} is {result}; only finite numbers are sent")
    return result


def numbers(values: Sequence[object] | np.ndarray, name: str, length: int | None = None) -> list[float]:
    """A list of finite floats of the given length, or ValueError naming the field."""
    result = [number(v, name) for v in values]
    if length is not None and len(result) != length:
        raise ValueError(f"{name} has {len(result)} values, not {length}")
    return result


def time_message(stamp_ns: int) -> Time:
    """Nanoseconds as a Time. ValueError before the epoch."""
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
    """A pose and its stamp [ns]; ValueError when it is none."""
    p, q = message.pose.position, message.pose.orientation
    return Pose.of((p.x, p.y, p.z), (q.x, q.y, q.z, q.w)), stamp_ns(message.header.stamp)


def joint_message(
    names: Sequence[str], positions: Sequence[float] | np.ndarray, velocities: Sequence[float] | np.ndarray, at_ns: int
) -> JointState:
    """Joint positions [rad or 0..1] and velocities (may be empty)."""
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
    """Names and positions of joints, and their stamp [ns]; ValueError when a position is not finite."""
    names, positions = [str(n) for n in message.name], numbers(message.position, "joint position")
    return names, positions, stamp_ns(message.header.stamp)


def read_trajectory(message: Any) -> tuple[list[str], list[float]]:
    """Names and the last point's positions of a JointTrajectory; ValueError when it has none or one is not finite."""
    if not message.points:
        raise ValueError("the trajectory has no points")
    names, last = [str(n) for n in message.joint_names], message.points[-1].positions
    return names, numbers(last, "the trajectory's last positions", len(names))


def read_gripper(message: JointState) -> tuple[float, int]:
    """A measured opening and its stamp [ns]; ValueError when the message has none."""
    if not message.position or not math.isfinite(message.position[0]):
        raise ValueError("gripper/state has no finite position[0]")
    return float(message.position[0]), stamp_ns(message.header.stamp)


def opening_message(opening: float) -> Float64:
    """A gripper command; ValueError outside 0 … 1."""
    value = number(opening, "gripper opening")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"gripper opening {value} is not 0 … 1")
    return Float64(data=value)


def message_type(kind: type) -> type:
    """The message class of a kind of command; ImportError naming the package where it is not installed."""
    found = MESSAGE_OF[kind]
    return load(found) if isinstance(found, str) else found


def command_message(command: Command) -> object:
    """An adapter's command as the message of its topic."""
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
    """A message (a goal, a request) with fields set, each cast to what it is; ValueError naming one that cannot be."""
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


# ---- camera --------------------------------------------------------------------------------------


def _picture(picture: Picture) -> Picture:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(f"a picture is uint8 (height, width, 3), not {picture.dtype} {picture.shape}")
    return np.ascontiguousarray(picture)


def image_message(picture: Picture, frame: str, at_ns: int) -> Image:
    """An rgb8 Image of a uint8 (height, width, 3) picture."""
    picture = _picture(picture)
    height, width = int(picture.shape[0]), int(picture.shape[1])
    message = Image(header=header(at_ns, frame), height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = _byte_array(picture.tobytes())
    return message


def jpeg_message(picture: Picture, frame: str, at_ns: int, quality: int) -> CompressedImage:
    """A JPEG CompressedImage, with image_transport's format string."""
    message = CompressedImage(header=header(at_ns, frame), format="rgb8; jpeg compressed bgr8")
    message.data = _byte_array(encode_jpeg(_picture(picture), int(quality)))
    return message


def _byte_array(data: bytes) -> object:
    from array import array

    return array("B", data)  # the one type that rclpy takes over as it is: a numpy array costs 85 ms a frame


def camera_info_message(matrix: np.ndarray, width: int, height: int, frame: str, at_ns: int) -> CameraInfo:
    """Intrinsics of a pinhole camera without distortion. matrix: (3, 3) [px]."""
    k = numbers(np.asarray(matrix, float).reshape(-1), "camera matrix", 9)
    message = CameraInfo(header=header(at_ns, frame), height=int(height), width=int(width))
    message.distortion_model, message.d = "plumb_bob", [0.0] * 5
    message.k, message.r = k, [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    return message


# ---- actions -------------------------------------------------------------------------------------


def delta_message(action: Sequence[float] | np.ndarray) -> EndEffectorDelta:
    """Seven numbers as an EndEffectorDelta."""
    x, y, z, roll, pitch, yaw, gripper = numbers(action, "action", 7)
    return EndEffectorDelta(
        translation=Vector3(x=x, y=y, z=z), rotation=Vector3(x=roll, y=pitch, z=yaw), gripper=gripper
    )


def read_delta(delta: EndEffectorDelta) -> tuple[float, ...]:
    """An EndEffectorDelta as seven numbers; not judged, that is the gate's work."""
    t, r = delta.translation, delta.rotation
    return (t.x, t.y, t.z, r.x, r.y, r.z, delta.gripper)


def chunk_message(
    actions: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    *,
    frame: str,
    at_ns: int,
    observation: Time,
    sequence: int,
    source: str,
    instruction: str,
    period: float,
    statistics: tuple[str, str] = ("", ""),
    latencies: Mapping[str, float] | None = None,
) -> ActionChunk:
    """A chunk. observation: the image's stamp, unchanged. latencies [s]: preparation, inference, total."""
    if len(actions) == 0:
        raise ValueError("a chunk has at least one action")
    times = latencies or {}
    return ActionChunk(
        header=header(at_ns, frame),
        observation_stamp=Time(sec=int(observation.sec), nanosec=int(observation.nanosec)),
        sequence=int(sequence),
        source=str(source),
        instruction=str(instruction),
        period=number(period, "period"),
        actions=[delta_message(a) for a in actions],
        statistics_name=str(statistics[0]),
        statistics_hash=str(statistics[1]),
        **{f"latency_{k}": number(times.get(k, 0.0), k) for k in ("preparation", "inference", "total")},
    )


def read_chunk(message: ActionChunk) -> Chunk:
    """A chunk for the gate."""
    return Chunk(
        actions=tuple(read_delta(a) for a in message.actions),
        frame=message.header.frame_id,
        stamp_ns=stamp_ns(message.header.stamp),
        observation_ns=stamp_ns(message.observation_stamp),
        sequence=int(message.sequence),
        source=message.source,
        period=float(message.period),
    )


# ---- states --------------------------------------------------------------------------------------


def safety_message(gate: Gate, mode: str, frame: str, at_ns: int, stopping: bool = False) -> SafetyState:
    """What the gate says. stopping: the target is being brought to rest."""
    return SafetyState(
        header=header(at_ns, frame),
        state=int(gate.state),
        reason=str(gate.reason),
        clipped=[str(n) for n in gate.clipped],
        refused=[str(n) for n in gate.refused],
        executing=gate.state == SafetyState.EXECUTING,
        executed_observation_stamp=time_message(gate.executed_observation_ns),
        ready_since=time_message(gate.ready_since_ns),
        executed_sequence=int(gate.executed_sequence),
        refused_count=int(gate.refused_count),
        control_mode=str(mode),
        stopping=bool(stopping),
        source=str(gate.source),
        e_stop_reset_by=str(gate.reset_by),
        e_stop_reset_stamp=time_message(gate.reset_ns),
    )


def status_message(at_ns: int, *, step: int, rate: float, latencies: Mapping[str, float], **texts: str) -> PolicyStatus:
    """A policy's status. texts: state, reason, backend, checkpoint, statistics_name, instruction."""
    return PolicyStatus(
        header=header(at_ns),
        step=int(step),
        rate=number(rate, "rate"),
        **{k: str(v) for k, v in texts.items()},
        **{f"latency_{k}": number(latencies.get(k, 0.0), k) for k in ("preparation", "inference", "total")},
    )


def score_message(
    seed: int, lifted: Mapping[str, bool], done: bool, at_ns: int, disturbed: Sequence[str] = ()
) -> SceneScore:
    """Which objects are lifted."""
    return SceneScore(
        header=header(at_ns),
        seed=int(seed),
        objects=[str(n) for n in lifted],
        lifted=[bool(v) for v in lifted.values()],
        done=bool(done),
        disturbed=[str(n) for n in disturbed],
    )


__all__ = [
    "Bool", "CameraInfo", "CompressedImage", "Float64", "Header", "Image", "JointState", "PoseStamped", "String",
    "camera_info_message", "chunk_message", "command_message", "delta_message", "filled", "gripper_message", "header",
    "image_message", "joint_message", "jpeg_message", "message_type", "number", "numbers", "opening_message",
    "pose_message", "read_chunk", "read_delta", "read_gripper", "read_joints", "read_pose", "read_trajectory",
    "safety_message", "score_message", "stamp_ns", "status_message", "text", "time_message", "GRIPPER_JOINT",
    "MESSAGE_OF",
]  # fmt: skip
