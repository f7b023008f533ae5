"""Read rosbag2 recordings (MCAP or SQLite) as episodes, by the message definitions inside the bag, without ROS.

All streams are put on one clock, that of the header stamps. Images stay in the bag: only the frames that become steps
are decoded.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mcap.exceptions import McapError
from numpy.typing import NDArray
from rosbags.highlevel import AnyReaderError
from rosbags.rosbag2 import ReaderError
from rosbags.serde import SerdeError
from zstandard import ZstdError

from openvla_policy.contract.action import StampedChunk
from openvla_policy.contract.camera import to_rgb
from openvla_training.bags.episode_cuts import CutBy, Segment, TimesLine, cut_bag
from openvla_training.bags.episodes import NS, BadBag, Camera, Execution, Recording, Stream, Topics
from openvla_training.bags.storage import OpenBag, open_bag

STANDARD_TOPICS = Topics()
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
# Exceptions of the libraries for a file that is damaged or not a bag.
UNREADABLE = (
    *(AnyReaderError, ReaderError, SerdeError, McapError, ZstdError),
    *(OSError, struct.error, UnicodeDecodeError, KeyError),
)


@dataclass(frozen=True)
class BadEpisode:
    """One episode of a bag that cannot be used, and the reason."""

    episode_id: str
    reason: str


def read_recordings(
    bag: Path,
    action_topics: Sequence[str],
    topics: Topics = STANDARD_TOPICS,
    *,
    cut: CutBy = "auto",
    lines: Sequence[TimesLine] | None = None,
) -> list[Recording]:
    """Read all episodes of a bag, none of which may be bad.

    Args:
        bag: The bag.
        action_topics: ActionChunk topics to read.
        topics: Names of the other topics.
        cut: Where episodes begin (see :func:`openvla_training.bags.episode_cuts.cut_bag`).
        lines: The bag's lines of a list of times; None where there is no list.

    Returns:
        The episodes.

    Raises:
        BadBag: The bag is truncated, a topic is missing or of a wrong type, stamps go backwards, there is no
            instruction, or a pose is not finite.
    """
    recordings = []
    for found in read_each(bag, action_topics, topics, cut=cut, lines=lines):
        if isinstance(found, BadEpisode):
            raise BadBag(found.reason)
        recordings.append(found)
    return recordings


def read_each(
    bag: Path,
    action_topics: Sequence[str],
    topics: Topics = STANDARD_TOPICS,
    *,
    cut: CutBy = "auto",
    lines: Sequence[TimesLine] | None = None,
) -> list[Recording | BadEpisode]:
    """Read all episodes of a bag, each by itself: a bad one does not affect the others.

    Args:
        bag: The bag.
        action_topics: ActionChunk topics to read.
        topics: Names of the other topics.
        cut: Where episodes begin (see :func:`openvla_training.bags.episode_cuts.cut_bag`).
        lines: The bag's lines of a list of times; None where there is no list.

    Returns:
        The episodes, and the bad ones with the reason.

    Raises:
        BadBag: The bag as a whole cannot be used: it is truncated, or a topic is missing or of a wrong type.
    """
    try:
        with open_bag(bag) as reader:
            return _Bag(bag, reader, topics, action_topics).recordings(cut, lines)
    except UNREADABLE as error:
        raise BadBag(f"unreadable ({error}); if its recorder was killed, run: openvla-recover {bag}") from error


def read_frames(recording: Recording, indices: Sequence[int], key: str | None = None) -> Iterator[NDArray[np.uint8]]:
    """Decode frames of an episode.

    Args:
        recording: The episode.
        indices: Indices of the frames, ascending; repeats are allowed.
        key: Observation key of a further camera; None for the main one.

    Yields:
        The frames, uint8 RGB (H, W, 3).

    Raises:
        BadBag: A frame cannot be decoded, or its size differs from the first one's.
    """
    camera = recording.cameras[key] if key else recording.main
    wanted = list(indices)
    shape: tuple[int, ...] | None = None
    position = 0
    with open_bag(recording.bag) as reader:
        connections = [c for c in reader.connections if c.topic == camera.topic]
        for index, (connection, _, raw) in enumerate(reader.messages(connections, camera.begin)):
            if position == len(wanted):
                return
            if index != wanted[position]:
                continue
            try:
                frame = to_rgb(reader.deserialize(raw, connection.msgtype))
            except (AnyReaderError, SerdeError, ValueError) as error:
                raise BadBag(f"{camera.topic}: image {index} cannot be decoded ({error})") from error
            shape = shape or frame.shape
            if frame.shape != shape:
                raise BadBag(f"{camera.topic}: image {index} is {frame.shape}, those before are {shape}")
            while position < len(wanted) and wanted[position] == index:
                yield frame
                position += 1


def _log_time(sample: tuple[int, Any]) -> int:
    return sample[0]


def _count(samples: list[tuple[int, Any]], last: int) -> int:
    """Count the samples up to a log time [ns]."""
    return bisect_right(samples, last, key=_log_time)


def _stamp(message: Any) -> int:
    return message.sec * 1_000_000_000 + message.nanosec


def _header_stamp(raw: bytes) -> int:
    """Read header.stamp from a serialised message whose first field is a Header, without decoding the rest."""
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * 1_000_000_000 + nanosec


def _vector(message: Any) -> tuple[float, float, float]:
    return (message.x, message.y, message.z)


def _pose(message: Any) -> tuple[float, ...]:
    pose = message.pose
    return (*_vector(pose.position), *_vector(pose.orientation), pose.orientation.w)


def _chunk(message: Any) -> StampedChunk:
    return StampedChunk(
        actions=tuple((*_vector(a.translation), *_vector(a.rotation), a.gripper) for a in message.actions),
        frame=message.header.frame_id,
        stamp_ns=_stamp(message.header.stamp),
        observation_ns=_stamp(message.observation_stamp),
        sequence=message.sequence,
        source=message.source,
        period=message.period,
        instruction=message.instruction,
    )


class _Bag:
    """One pass over an open bag, which reads everything but the pixels."""

    def __init__(self, path: Path, reader: OpenBag, topics: Topics, action_topics: Sequence[str]) -> None:
        self.path = path
        self.reader = reader
        self.topics = topics
        self.action_topics = action_topics
        # By role: lists of (log time, value) in order of log time; for images the value is the header stamp.
        self.samples: dict[str, list[tuple[int, Any]]] = {}
        self.topic_of: dict[str, str] = {}

    def _find(self, name: str) -> Any:
        name = name.strip("/")
        found = [c for c in self.reader.connections if f"/{c.topic.strip('/')}".endswith(f"/{name}")]
        topics = sorted({c.topic for c in found})
        exact = [c for c in found if c.topic.strip("/") == name]
        if len(topics) > 1 and not exact:
            raise BadBag(f"several topics are named {name}: {', '.join(topics)}; give the full name of one")
        return next(iter(exact or found), None)

    def _find_camera(self, name: str) -> Any:
        return self._find(name) or self._find(f"{name}/compressed")

    def _connections(self) -> dict[int, tuple[str, Any]]:
        topics = self.topics
        expected = {
            "image": (self._find_camera(topics.image), IMAGE_TYPES, topics.image),
            **{f"camera:{key}": (self._find_camera(topic), IMAGE_TYPES, topic) for key, topic in topics.cameras},
            "ee_pose": (self._find(topics.ee_pose), ("geometry_msgs/msg/PoseStamped",), topics.ee_pose),
            "gripper": (self._find(topics.gripper), ("sensor_msgs/msg/JointState",), topics.gripper),
            "command": (self._find(topics.gripper_command), ("std_msgs/msg/Float64",), None),
            "instruction": (self._find(topics.instruction), ("std_msgs/msg/String",), None),
            "episode": (self._find(topics.episode), ("std_msgs/msg/String",), None),
            "safety": (self._find(topics.safety), ("openvla_msgs/msg/SafetyState",), None),
        }
        for name in self.action_topics:
            expected[f"chunk:{name}"] = (self._find(name), ("openvla_msgs/msg/ActionChunk",), name)
        chosen = {}
        for role, (connection, types, required) in expected.items():
            if connection is None:
                if required:
                    there = ", ".join(sorted({c.topic for c in self.reader.connections})) or "none"
                    raise BadBag(f"topic {required} is missing; topics in the bag: {there}")
            elif connection.msgtype not in types:
                raise BadBag(f"topic {connection.topic} is {connection.msgtype}; expected {' or '.join(types)}")
            else:
                chosen[connection.id] = (role, connection)
        return chosen

    def recordings(self, how: CutBy, lines: Sequence[TimesLine] | None) -> list[Recording | BadEpisode]:
        chosen = self._connections()
        self.samples = {role: [] for role, _ in chosen.values()}
        self.topic_of = {role: connection.topic for role, connection in chosen.values()}
        for connection, log_time, raw in self.reader.messages([c for _, c in chosen.values()]):
            role = chosen[connection.id][0]
            if role == "image" or role.startswith("camera:"):
                value: Any = _header_stamp(raw) or log_time
            else:
                value = self.reader.deserialize(raw, connection.msgtype)
            self.samples[role].append((log_time, value))
        events, instructions = (
            [(log, str(message.data)) for log, message in self.samples.get(role, [])]
            for role in ("episode", "instruction")
        )
        found: list[Recording | BadEpisode] = []
        for segment in cut_bag(
            how, self.path.stem, self.reader.start_time, self.reader.end_time, events, instructions, lines
        ):
            try:
                found.append(self._recording(segment))
            except BadBag as error:
                found.append(BadEpisode(segment.episode_id, str(error)))
        return found

    def _recording(self, segment: Segment) -> Recording:
        part = {
            role: samples[bisect_left(samples, segment.first, key=_log_time) : _count(samples, segment.last)]
            for role, samples in self.samples.items()
        }
        main = self._camera("image", part["image"], segment.first)
        logs = np.array([log for log, _ in part["image"]], np.int64)
        command = None
        if part.get("command"):
            # Float64 has no stamp: map its log time to the clock of the stamps by way of the images.
            at = np.array([log for log, _ in part["command"]], np.int64)
            offset = np.interp((at - logs[0]) * NS, (logs - logs[0]) * NS, (main.stamps - logs) * NS)
            values = np.array([[message.data] for _, message in part["command"]], np.float64)
            command = Stream(at + np.round(offset / NS).astype(np.int64), values)
        chunks = {name: [_chunk(message) for _, message in part[f"chunk:{name}"]] for name in self.action_topics}
        return Recording(
            bag=self.path,
            episode_id=segment.episode_id,
            instruction=self._instruction(segment.last, segment.event, chunks),
            outcome=str(segment.event.get("outcome", "unknown")),
            score=float(segment.event.get("score", 0.0)),
            main=main,
            cameras={
                key: self._camera(f"camera:{key}", part[f"camera:{key}"], segment.first)
                for key, _ in self.topics.cameras
            },
            ee_pose=self._stream("ee_pose", part["ee_pose"], _pose),
            gripper=self._stream("gripper", part["gripper"], lambda message: message.position[:1]),
            gripper_command=command,
            chunks=chunks,
            execution=self._execution(part["safety"]) if "safety" in part else None,
            frame=str(part["ee_pose"][0][1].header.frame_id),
            details=dict(segment.event),
        )

    def _camera(self, role: str, samples: list[tuple[int, Any]], first: int) -> Camera:
        topic = self.topic_of[role]
        if not samples:
            raise BadBag(f"no image on topic {topic}")
        stamps = self._ordered(topic, [value for _, value in samples])
        return Camera(topic, stamps, first)

    def _instruction(self, last: int, event: Mapping[str, Any], chunks: dict[str, list[StampedChunk]]) -> str:
        """Take the instruction given to the recorder, else the newest one before the end, else that of the chunks."""
        samples = self.samples.get("instruction", [])
        published = (samples[index][1].data for index in reversed(range(_count(samples, last))))
        followed = [chunk.instruction for named in chunks.values() for chunk in named]
        for text in (str(event.get("instruction", "")), *published, *followed):
            if text.strip():
                return text.strip()
        raise BadBag("no instruction, neither from the recorder nor on a topic")

    def _stream(self, role: str, samples: list[tuple[int, Any]], values: Any) -> Stream:
        topic = self.topic_of[role]
        if not samples:
            raise BadBag(f"no message on topic {topic}")
        stamps = self._ordered(topic, [_stamp(message.header.stamp) or log for log, message in samples])
        rows = [values(message) for _, message in samples]
        if any(len(row) != len(rows[0]) or len(row) == 0 for row in rows):
            raise BadBag(f"topic {topic} has messages with no or a changing number of values")
        array = np.array(rows, np.float64)
        if not np.isfinite(array).all():
            raise BadBag(
                f"topic {topic} has a value that is not a finite number at message "
                f"{int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])}"
            )
        if role == "ee_pose" and (np.linalg.norm(array[:, 3:], axis=1) < 1e-6).any():
            raise BadBag(f"topic {topic} has a quaternion of length zero: the robot publishes no attitude")
        return Stream(stamps, array)

    def _ordered(self, topic: str, stamps: list[int]) -> NDArray[np.int64]:
        array = np.array(stamps, np.int64)
        back = np.flatnonzero(np.diff(array) < 0)
        if len(back):
            jump = (array[back[0]] - array[back[0] + 1]) * NS
            raise BadBag(f"topic {topic}: time goes back by {jump:.3f} s at message {int(back[0]) + 1}")
        return array

    @staticmethod
    def _execution(samples: list[tuple[int, Any]]) -> Execution | None:
        """Read which chunks were executed; None in streaming control, where newer chunks replace older ones."""
        states = [message for _, message in samples]
        if not states or states[-1].control_mode != "blocking":
            return None
        executed = [_stamp(state.executed_observation_stamp) for state in states]
        newest = next((i for i, stamp in enumerate(executed) if stamp == executed[-1]), 0)
        refused = states[-1].refused_count - states[newest].refused_count
        return Execution(frozenset(stamp for stamp in executed if stamp), int(refused))
