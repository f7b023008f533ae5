"""openvla-export-bag: RLDS to rosbag2, the episodes of a dataset on the topics of a recording.

One MCAP bag an episode, with its message definitions. A dataset with PNG images converts back exactly: images are
written as they are stored (CompressedImage), states and actions as the stored float32 numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from tyro.conf import Positional, arg

from openvla_policy.command_line import parse
from openvla_training.bags.action_labels import EXECUTED_TOPIC
from openvla_training.bags.episodes import NS, Topics
from openvla_training.bags.message_definitions import typestore
from openvla_training.rlds.features import Episode
from openvla_training.rlds.images import EncodedImages
from openvla_training.rlds.inspect.quality import counted
from openvla_training.rlds.reader import find_dataset, read_episodes
from openvla_training.rlds.writer import MANIFEST

FIRST_STAMP = 1_000_000_000  # [ns] where a dataset has no stamps: zero means "no stamp"
LATER = 1_000_000  # [ns] from the stamp of a frame to the log time of its action
FRAME = "base"


def export(dataset: Path, output: Path, split: str = "all", rate: float | None = None) -> list[Path]:
    """Write the episodes of a split as bags.

    Args:
        dataset: The dataset's folder.
        output: Folder of the bags.
        split: train, val or all.
        rate: Control rate of episodes whose steps have no stamps [Hz]; None for that of the conversion.

    Returns:
        The bags' folders.

    Raises:
        ValueError: A rate is needed and not known.
        FileExistsError: A bag exists already.
    """
    folder = find_dataset(dataset)
    path = folder / MANIFEST
    settings = json.loads(path.read_text("utf-8"))["settings"] if path.exists() else {}
    rate = rate or settings.get("rate")
    frame = "end_effector" if settings.get("action_frame") == "end_effector" else FRAME
    made = []
    for number, episode in enumerate(read_episodes(folder, split=split)):
        name = re.sub(r"[^A-Za-z0-9_.-]+", "_", episode.episode_id) or "episode"
        target = output / f"{number:06d}_{name[:80]}"
        if target.exists():
            raise FileExistsError(f"{target} exists already; choose another --output")
        temporary = output / ".export" / target.name
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, episode, _stamps(episode, rate), frame, rate)
        temporary.rename(target)
        made.append(target)
    shutil.rmtree(output / ".export", ignore_errors=True)
    return made


def _stamps(episode: Episode, rate: float | None) -> np.ndarray:
    if episode.stamps is not None:
        return episode.stamps
    if not rate:
        raise ValueError(f"episode {episode.episode_id!r} has no stamps; give --rate, its control rate in Hz")
    return FIRST_STAMP + np.round(np.arange(len(episode.actions)) / (rate * NS)).astype(np.int64)


def _write(path: Path, episode: Episode, stamps: np.ndarray, frame: str, rate: float | None) -> None:
    store = typestore()
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connections: dict[str, Any] = {}
        for topic, at, message in _messages(episode, stamps, frame, rate):
            kind = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, kind, typestore=store)
            writer.write(connections[topic], int(at), bytes(store.serialize_cdr(message, kind)))


def _messages(episode: Episode, stamps: np.ndarray, frame: str, rate: float | None) -> Iterator[tuple[str, int, Any]]:
    """Yield (topic, log time [ns], message) in order of time."""
    make = typestore().types
    topics = Topics()

    def time(at: int) -> Any:
        return make["builtin_interfaces/msg/Time"](sec=int(at) // 10**9, nanosec=int(at) % 10**9)

    def header(at: int, name: str) -> Any:
        return make["std_msgs/msg/Header"](stamp=time(at), frame_id=name)

    def vector(kind: str, values: Sequence[float]) -> Any:
        return make[f"geometry_msgs/msg/{kind}"](**dict(zip("xyzw", map(float, values), strict=False)))

    def text(value: str) -> Any:
        return make["std_msgs/msg/String"](data=value)

    first, last = int(stamps[0]) - 2 * LATER, int(stamps[-1]) + 2 * LATER
    known = {"format": 1, "episode_id": episode.episode_id}
    yield topics.episode, first, text(json.dumps({"event": "start", "instruction": episode.instruction} | known))
    yield topics.instruction, first, text(episode.instruction)
    cameras = {topics.image: episode.images} | {
        f"{key}/image_raw": frames for key, frames in episode.extra_images.items()
    }
    for index, at in enumerate(map(int, stamps)):
        state, action = episode.states[index].astype(float), episode.actions[index].astype(float)
        for topic, frames in cameras.items():
            assert isinstance(frames, EncodedImages)
            data = frames.encoded[index]
            picture = make["sensor_msgs/msg/CompressedImage"](
                header=header(at, topic.split("/")[0]),
                format="png" if data.startswith(b"\x89PNG") else "jpeg",
                data=np.frombuffer(data, np.uint8),
            )
            yield f"{topic}/compressed", at, picture
        pose = make["geometry_msgs/msg/Pose"](
            position=vector("Point", state[:3]), orientation=vector("Quaternion", state[3:7])
        )
        yield topics.ee_pose, at, make["geometry_msgs/msg/PoseStamped"](header=header(at, FRAME), pose=pose)
        empty = np.zeros(0)
        opening = make["sensor_msgs/msg/JointState"](
            header=header(at, ""), name=["gripper"], position=state[7:8], velocity=empty, effort=empty
        )
        yield topics.gripper, at, opening
        delta = make["openvla_msgs/msg/EndEffectorDelta"](
            translation=vector("Vector3", action[:3]), rotation=vector("Vector3", action[3:6]), gripper=float(action[6])
        )
        chunk = make["openvla_msgs/msg/ActionChunk"](
            header=header(at, frame), observation_stamp=time(at), sequence=index, source="replay",
            instruction=episode.instruction, period=1.0 / rate if rate else 0.0, actions=[delta], statistics_name="",
            statistics_hash="", latency_preparation=0.0, latency_inference=0.0, latency_total=0.0,
        )  # fmt: skip
        yield EXECUTED_TOPIC, at + LATER, chunk
    stop = {"event": "stop", "outcome": episode.outcome, "score": episode.score}
    yield topics.episode, last, text(json.dumps(stop | known))


@dataclass(frozen=True)
class ExportOptions:
    """Options of openvla-export-bag."""

    dataset: Annotated[Positional[Path], arg(metavar="DIR")]
    """Dataset folder."""
    output: Annotated[Path, arg(metavar="DIR")]
    """Folder for the bags."""
    split: str = "all"
    """train, val or all."""
    rate: Annotated[float | None, arg(metavar="HZ")] = None
    """Control rate, where the dataset has no stamps [Hz]."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    given = parse(
        ExportOptions,
        arguments,
        prog="openvla-export-bag",
        description="Write the episodes of an RLDS dataset as rosbag2 recordings, one MCAP bag each, which "
        "'ros2 bag play', Foxglove and openvla-convert read.",
    )
    try:
        if given.rate is not None and not given.rate > 0:
            raise ValueError(f"--rate {given.rate}: give the control rate in Hz, above 0")
        made = export(given.dataset, given.output, given.split, given.rate)
    except (ValueError, OSError) as error:
        print(f"openvla-export-bag: {error}", file=sys.stderr)
        return 1
    print(f"{given.output}: {counted(len(made), 'bag')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
