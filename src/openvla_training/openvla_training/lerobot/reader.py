"""Read a LeRobot dataset (v2.0, v2.1, v3.0) as episodes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_evaluation.report.video import read_video
from openvla_training.lerobot import layout
from openvla_training.rlds.features import ACTION_DIM, MAIN_CAMERA, STATE_DIM, EncodedEpisode, Shape
from openvla_training.rlds.images import decode_image, encode_image

# Written where a dataset has no state: position x y z, quaternion x y z w, opening.
NO_STATE = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Mapping:
    """Which of a dataset's columns become images, action and state.

    Attributes:
        cameras: Observation key -> feature; empty for all of them, the first one as the main camera.
        action: Positions of the 7 numbers in `action`; empty where it has that length.
        state: Positions of the 8 numbers in `observation.state`; empty where it has that length.
        no_state: Whether to write a state of zeros.
        closed: The gripper's number when it is closed.
        opened: The gripper's number when it is open.
    """

    cameras: dict[str, str]
    action: tuple[int, ...] = ()
    state: tuple[int, ...] = ()
    no_state: bool = False
    closed: float = 0.0
    opened: float = 1.0


@dataclass(frozen=True)
class Source:
    """An open dataset: info.json, the instructions by index, and one row an episode."""

    root: Path
    info: dict[str, Any]
    tasks: dict[int, str]
    rows: list[dict[str, Any]]

    @property
    def version(self) -> str:
        """The layout of the files: v2.1 for all of v2, or v3.0."""
        return "v3.0" if str(self.info["codebase_version"]).startswith("v3") else "v2.1"

    @property
    def cameras(self) -> list[str]:
        """Features that hold images."""
        return [name for name, one in self.info["features"].items() if one["dtype"] in ("image", "video")]


def open_source(root: Path) -> Source:
    """Read a dataset's metadata.

    Args:
        root: The dataset's folder.

    Returns:
        The open dataset.

    Raises:
        ValueError: It is not a LeRobot dataset of a known version, or a table is missing.
    """
    path = root / layout.INFO
    if not path.exists():
        raise ValueError(f"{root} has no {layout.INFO}; is it a LeRobot dataset?")
    info = json.loads(path.read_text("utf-8"))
    version = str(info.get("codebase_version"))
    try:
        if version.startswith("v2"):
            tasks = {line["task_index"]: line["task"] for line in _lines(root / layout.TASKS_LINES)}
            rows = list(_lines(root / layout.EPISODES_LINES))
        elif version.startswith("v3"):
            table = pq.read_table(root / layout.TASKS_TABLE).to_pydict()
            (texts,) = [table[name] for name in table if name != "task_index"]
            tasks = dict(zip(table["task_index"], texts, strict=True))
            files = sorted((root / "meta/episodes").glob("*/*.parquet"))
            rows = [row for file in files for row in _episode_rows(file)]
        else:
            raise ValueError(f"{path}: codebase_version {version!r} is unknown; known: v2.0, v2.1, v3.0")
    except FileNotFoundError as error:
        raise ValueError(f"{root}: {error.filename or error} is missing") from error
    return Source(root, info, tasks, sorted(rows, key=lambda row: row["episode_index"]))


def read(source: Source, mapping: Mapping, encoding: str) -> Iterator[tuple[EncodedEpisode, dict[str, Shape]]]:
    """Read the episodes.

    Args:
        source: The dataset.
        mapping: Which of its columns to take.
        encoding: Of the images, jpeg or png; columns in that encoding are taken unchanged.

    Yields:
        Each episode with the shapes of its images by observation key.

    Raises:
        ValueError: Numbers or images are missing or of the wrong length.
    """
    cameras = mapping.cameras or _all_cameras(source)
    unknown = [name for name in cameras.values() if name not in source.cameras]
    if unknown or MAIN_CAMERA not in cameras:
        raise ValueError(
            f"cameras {cameras}: name one as {MAIN_CAMERA}; the dataset has {', '.join(source.cameras) or 'none'}"
        )
    videos = _Videos(source)
    for row in source.rows:
        table = _table(source, row)
        actions = _numbers(table, "action", mapping.action, ACTION_DIM, "--action-columns")
        span = mapping.opened - mapping.closed
        actions[:, 6] = (actions[:, 6] - mapping.closed) / span
        states = (
            np.tile(np.array(NO_STATE, np.float32), (len(actions), 1))
            if mapping.no_state
            else _numbers(table, "observation.state", mapping.state, STATE_DIM, "--state-columns")
        )
        images, shapes = {}, {}
        for key, name in cameras.items():
            if source.info["features"][name]["dtype"] == "image":
                images[key] = [_encoded_column(cell, source.root, encoding) for cell in table[name]]
                shape = decode_image(images[key][0]).shape
            else:
                frames = videos.frames(row, name, len(actions))
                shape = frames[0].shape
                images[key] = [encode_image(frame, encoding) for frame in frames]
            shapes[key] = (shape[0], shape[1], 3)
        sentences = [source.tasks[int(index)] for index in table["task_index"]]
        if "stamp_ns" in table:
            stamps = np.array(table["stamp_ns"], np.int64).reshape(-1)
        else:
            stamps = 1_000_000_000 + np.round(np.array(table["timestamp"], np.float64) * 1e9).astype(np.int64)
        yield (
            EncodedEpisode(
                episode_id=str(row.get("episode_id") or f"{source.root.resolve().name}-{row['episode_index']:06d}"),
                images=images.pop(MAIN_CAMERA),
                states=states,
                actions=actions,
                instructions=sentences,
                outcome=str(row.get("outcome") or "unknown"),
                score=float(row.get("score") or 0.0),
                file_path=str(row.get("file_path") or source.root),
                extra_images=images,
                stamps=stamps if stamps.any() else None,
            ),
            shapes,
        )


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text("utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


def _episode_rows(file: Path) -> list[dict[str, Any]]:
    names = [name for name in pq.read_schema(file).names if not name.startswith("stats/")]
    return pq.read_table(file, columns=names).to_pylist()


def _all_cameras(source: Source) -> dict[str, str]:
    """Choose observation keys for all cameras; the main one is ours by name, else the first."""
    names = source.cameras
    main = layout.MAIN if layout.MAIN in names else next(iter(names), None)
    found = {} if main is None else {MAIN_CAMERA: main}
    return found | {name.rsplit(".", 1)[-1]: name for name in names if name != main}


def _table(source: Source, row: dict[str, Any]) -> dict[str, list[Any]]:
    number = row["episode_index"]
    if source.version == "v2.1":
        chunk = number // source.info["chunks_size"]
        path = source.root / source.info["data_path"].format(episode_chunk=chunk, episode_index=number)
        return pq.read_table(path).to_pydict()
    place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    path = source.root / source.info["data_path"].format(**place)
    return pq.read_table(path, filters=[("episode_index", "=", number)]).to_pydict()


def _numbers(
    table: dict[str, list[Any]], name: str, columns: Sequence[int], size: int, flag: str
) -> NDArray[np.float32]:
    """Take one column of vectors as float32 (T, size)."""
    if name not in table:
        raise ValueError(f"the dataset has no {name}" + ("; use --no-state" if "state" in name else ""))
    values = np.array(table[name], np.float32)
    if columns:
        if max(columns) >= values.shape[1]:
            raise ValueError(f"{flag} {','.join(map(str, columns))}: {name} has {values.shape[1]} numbers")
        values = values[:, list(columns)]
    if values.ndim != 2 or values.shape[1] != size:
        raise ValueError(f"{name} has {values.shape[1:]} numbers, {size} are needed; select them with {flag}")
    return values


def _encoded_column(cell: Any, root: Path, encoding: str) -> bytes:
    """Read an image of a table, from the cell or from the file that it names."""
    data: bytes = cell["bytes"] if cell["bytes"] is not None else (root / cell["path"]).read_bytes()
    stored = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return data if stored == encoding else encode_image(decode_image(data), encoding)


class _Videos:
    """Frames of the episodes; each file is read once, from front to back."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._open: dict[str, tuple[Path, Iterator[NDArray[np.uint8]], int]] = {}

    def frames(self, row: dict[str, Any], name: str, count: int) -> list[NDArray[np.uint8]]:
        """Read the `count` frames of one episode and camera."""
        source, number = self._source, row["episode_index"]
        template = source.root / source.info["video_path"]
        if source.version == "v2.1":
            chunk = number // source.info["chunks_size"]
            path = Path(str(template).format(episode_chunk=chunk, video_key=name, episode_index=number))
            first = 0
        else:
            place = {key: row[f"videos/{name}/{key}"] for key in ("chunk_index", "file_index")}
            path = Path(str(template).format(video_key=name, **place))
            first = round(row[f"videos/{name}/from_timestamp"] * source.info["fps"])
        at, reader, position = self._open.get(name, (None, iter(()), 0))
        if at != path or position > first:
            if not path.exists():
                raise ValueError(f"{path} is missing")
            reader, position = read_video(path), 0
        frames = []
        for frame in reader:
            position += 1
            if position > first:
                frames.append(frame)
            if len(frames) == count:
                break
        if len(frames) < count:
            raise ValueError(f"{path}: episode {number} needs frames {first} to {first + count}, it has {position}")
        self._open[name] = (path, reader, position)
        return frames
