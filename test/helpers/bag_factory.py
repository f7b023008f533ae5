"""Synthetic bags with the real message definitions, for the tests of recording, bags and conversion."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from openvla_ros.recording.bag_writer import BagInfo, BagWriter
from openvla_ros.recording.episode import EpisodeMachine, start_event, stop_event
from openvla_ros.recording.message_definitions import MessageDefinitions

SOURCES = Path(__file__).resolve().parents[2] / "src"
START = 1_700_000_000_000_000_000
PERIOD = 200_000_000  # 5 Hz


def definitions() -> MessageDefinitions:
    """Jazzy's types and, from this repository's .msg files, openvla_msgs."""
    return MessageDefinitions([SOURCES])


@dataclass
class Demo:
    """What goes into one episode: T frames at 5 Hz, an action for each, states at 50 Hz."""

    frames: np.ndarray
    actions: np.ndarray
    labels: np.ndarray
    poses: np.ndarray
    openings: np.ndarray
    instruction: str = "lift the red cube"
    outcome: str | None = "success"
    start: int = START
    namespace: str = ""
    skip_topics: tuple[str, ...] = ()
    executed: list[bool] = field(default_factory=list)
    state_delay: int = 0
    period: float = PERIOD * 1e-9
    sentences: tuple[str, ...] = ()  # the expert labels every frame once for each; () = for the instruction alone

    def label(self, index: int, sentence: str) -> np.ndarray:
        """The expert's action for a frame: each sentence has its own."""
        return self.labels[index] + 0.01 * (self.sentences.index(sentence) if self.sentences else 0)

    @property
    def stamps(self) -> list[int]:
        return [self.start + index * PERIOD for index in range(len(self.frames))]


def random_demo(rng: np.random.Generator, steps: int = 6, size: int = 32, **changes: Any) -> Demo:
    """An episode of random frames, actions and poses."""
    states = (steps - 1) * 10 + 1
    quaternions = rng.normal(size=(states, 4))
    demo = Demo(
        frames=rng.integers(0, 256, (steps, size, size, 3), dtype=np.uint8),
        actions=rng.normal(scale=0.02, size=(steps, 7)),
        labels=rng.normal(scale=0.02, size=(steps, 7)),
        poses=np.concatenate(
            [rng.normal(size=(states, 3)), quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)], axis=1
        ),
        openings=rng.uniform(size=states),
        executed=[True] * steps,
    )
    for name, value in changes.items():
        setattr(demo, name, value)
    return demo


class BagMaker:
    """Builds ROS messages with rosbags and writes them through the real bag writer."""

    def __init__(self, path: Path, namespace: str = "", compression: str = "zstd") -> None:
        self.definitions = definitions()
        self.writer = BagWriter(path, self.definitions, compression=compression)
        self.namespace = namespace
        self.connections: dict[str, Any] = {}

    def make(self, msgtype: str, **fields: Any) -> Any:
        """A message of ``package/msg/Name``; scalar fields and messages that are not given are zero or empty."""
        store = self.definitions.ensure(msgtype)
        for name, (kind, detail) in store.fielddefs[msgtype][1]:
            if name not in fields and kind == Nodetype.NAME:
                fields[name] = self.make(detail)
            elif name not in fields and kind == Nodetype.BASE:
                fields[name] = "" if detail[0] == "string" else 0
        return store.types[msgtype](**fields)

    def time(self, stamp: int) -> Any:
        return self.make("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)

    def header(self, stamp: int, frame: str = "panda_link0") -> Any:
        return self.make("std_msgs/msg/Header", stamp=self.time(stamp), frame_id=frame)

    def vector(self, values: Any, kind: str = "Vector3") -> Any:
        return self.make(f"geometry_msgs/msg/{kind}", **dict(zip("xyzw", map(float, values), strict=False)))

    def put(self, topic: str, log_time: int, message: Any) -> None:
        msgtype = message.__msgtype__
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_topic(f"{self.namespace}/{topic}", msgtype)
        data = self.definitions.store.serialize_cdr(message, msgtype)
        assert self.writer.write(self.connections[topic], log_time, bytes(data))

    def image(self, stamp: int, frame: np.ndarray, delay: int = 5_000_000, topic: str = "camera/image_raw") -> None:
        height, width, _ = frame.shape
        message = self.make(
            "sensor_msgs/msg/Image",
            header=self.header(stamp, "camera"),
            height=height,
            width=width,
            encoding="rgb8",
            is_bigendian=0,
            step=3 * width,
            data=frame.reshape(-1),
        )
        self.put(topic, stamp + delay, message)

    def pose(self, stamp: int, pose: np.ndarray) -> None:
        inner = self.make(
            "geometry_msgs/msg/Pose",
            position=self.vector(pose[:3], "Point"),
            orientation=self.vector(pose[3:], "Quaternion"),
        )
        message = self.make("geometry_msgs/msg/PoseStamped", header=self.header(stamp), pose=inner)
        self.put("robot/ee_pose", stamp + 1_000_000, message)

    def gripper(self, stamp: int, opening: float) -> None:
        empty = np.zeros(0)
        message = self.make(
            "sensor_msgs/msg/JointState",
            header=self.header(stamp),
            name=["gripper"],
            position=np.array([opening]),
            velocity=empty,
            effort=empty,
        )
        self.put("gripper/state", stamp + 1_000_000, message)

    def chunk(
        self, topic: str, stamp: int, actions: np.ndarray, instruction: str, period: float, observed: int | None = None
    ) -> None:
        deltas = [
            self.make(
                "openvla_msgs/msg/EndEffectorDelta",
                translation=self.vector(row[:3]),
                rotation=self.vector(row[3:6]),
                gripper=float(row[6]),
            )
            for row in np.atleast_2d(actions)
        ]
        message = self.make(
            "openvla_msgs/msg/ActionChunk",
            header=self.header(stamp + 50_000_000),
            observation_stamp=self.time(stamp if observed is None else observed),
            sequence=0,
            source="expert",
            instruction=instruction,
            period=period,
            actions=deltas,
            statistics_name="",
            statistics_hash="",
            latency_preparation=0.0,
            latency_inference=0.0,
            latency_total=0.0,
        )
        self.put(topic, stamp + 50_000_000, message)

    def safety(self, stamp: int, executed: int, refused: int) -> None:
        message = self.make(
            "openvla_msgs/msg/SafetyState",
            header=self.header(stamp),
            state=2,
            reason="",
            clipped=[],
            refused=[],
            executing=False,
            executed_observation_stamp=self.time(executed),
            ready_since=self.time(stamp),
            executed_sequence=0,
            refused_count=refused,
            control_mode="blocking",
        )
        self.put("safety/state", stamp, message)

    def text(self, topic: str, log_time: int, text: str) -> None:
        self.put(topic, log_time, self.make("std_msgs/msg/String", data=text))


def write_demo(path: Path, demo: Demo, **options: Any) -> BagInfo:
    """Write an episode as the recorder does."""
    maker = BagMaker(path, demo.namespace, **options)
    fill(maker, demo)
    return maker.writer.close()


def fill(maker: BagMaker, demo: Demo) -> str:
    """Write an episode's messages into an open bag; returns its id."""
    from datetime import UTC, datetime

    episode = EpisodeMachine().start(demo.instruction or "x", "", datetime.fromtimestamp(demo.start * 1e-9, UTC))
    skip = demo.skip_topics
    if "episode" not in skip:
        maker.text("episode", demo.start - 10, start_event(episode))
    if "instruction" not in skip:
        maker.text("instruction", demo.start - 5, demo.instruction)
    executed, refused = 0, 0
    for index, (stamp, frame) in enumerate(zip(demo.stamps, demo.frames, strict=True)):
        if "camera/image_raw" not in skip:
            maker.image(stamp, frame)
        if "policy/action_chunk" not in skip:
            maker.chunk("policy/action_chunk", stamp, demo.actions[index], demo.instruction, demo.period)
        if "expert/action_chunk" not in skip:
            for sentence in demo.sentences or (demo.instruction,):
                label = demo.label(index, sentence)
                maker.chunk("expert/action_chunk", stamp, label, sentence, demo.period)
        if demo.executed[index]:
            executed = stamp
        else:
            refused += 1
        if "safety/state" not in skip:
            maker.safety(stamp + PERIOD - 20_000_000, executed, refused)
    for index in range(len(demo.poses)):
        stamp = demo.start + index * PERIOD // 10 + demo.state_delay
        if "robot/ee_pose" not in skip:
            maker.pose(stamp, demo.poses[index])
        if "gripper/state" not in skip:
            maker.gripper(stamp, float(demo.openings[index]))
    if demo.outcome and "episode" not in skip:
        end = demo.start + (len(demo.frames) + 1) * PERIOD
        maker.text("episode", end, stop_event(episode, demo.outcome, 1.0, "", {}, {}))
    return episode.episode_id
