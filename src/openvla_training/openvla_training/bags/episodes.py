"""A recorded episode, once its streams are on one clock; and the search for bags in folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_policy.contract.action import StampedChunk

NS = 1e-9
BAG_FILES = ("*.mcap", "*.db3")


class BadBag(Exception):
    """A bag, or one episode of it, cannot be converted; the message says why."""


@dataclass(frozen=True)
class Topics:
    """Names of topics; each matches with or without a leading slash and under any namespace."""

    image: str = "camera/image_raw"
    ee_pose: str = "robot/ee_pose"
    gripper: str = "gripper/state"
    gripper_command: str = "gripper/command"
    instruction: str = "instruction"
    episode: str = "episode"
    safety: str = "safety/state"
    cameras: tuple[tuple[str, str], ...] = ()  # further cameras: (observation key, topic)


@dataclass(frozen=True)
class Stream:
    """Samples of one signal in order of time: `stamps` int64 [ns] (N,), `values` float64 (N, D)."""

    stamps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Execution:
    """Report of the bridge: stamps [ns] of the observations whose chunks were executed, refusals since the newest."""

    executed: frozenset[int]
    refused_after: int


@dataclass(frozen=True)
class Camera:
    """Frames of one camera: topic, header stamps [ns] (N,), and the log time [ns] from which they are numbered."""

    topic: str
    stamps: NDArray[np.int64]
    begin: int


@dataclass(frozen=True)
class Recording:
    """One episode of a bag without the pixels (see :func:`read_frames`); its poses are in `frame`."""

    bag: Path
    episode_id: str
    instruction: str
    outcome: str
    score: float
    main: Camera
    cameras: dict[str, Camera]
    ee_pose: Stream
    gripper: Stream
    gripper_command: Stream | None
    chunks: dict[str, list[StampedChunk]]
    execution: Execution | None
    frame: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def image_stamps(self) -> NDArray[np.int64]:
        """Stamps of the main camera's frames [ns] (N,)."""
        return self.main.stamps


def find_bags(paths: Sequence[Path]) -> list[Path]:
    """List the bags in files and folders.

    A bag is a folder with metadata.yaml, or a storage file without one beside it (a bag that was not closed, or a bare
    file). Hidden folders, which hold recordings in progress, are left out.

    Args:
        paths: Bags, or folders of bags.

    Returns:
        The bags, sorted.

    Raises:
        FileNotFoundError: A path does not exist.
    """
    found: set[Path] = set()
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist; name bags, or folders of bags")
        if path.is_file():
            found.add(path.resolve())
            continue
        for pattern in ("metadata.yaml", *BAG_FILES):
            for file in path.resolve().rglob(pattern):
                if any(part.startswith(".") for part in file.relative_to(path.resolve()).parts):
                    continue
                whole = (file.parent / "metadata.yaml").exists()
                found.add(file.parent if whole else file)
    return sorted(found)
