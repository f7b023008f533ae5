"""Write an RLDS dataset as a LeRobot dataset."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from openvla_evaluation.report.video import VideoWriter
from openvla_training.lerobot import layout
from openvla_training.rlds.features import MAIN_CAMERA, Episode
from openvla_training.rlds.images import EncodedImages, encode_image
from openvla_training.rlds.reader import count_episodes, find_dataset, read_episodes

ImageStorage = Literal["video", "png"]
STATISTICS_FRAMES = 8  # frames of an episode that enter the statistics of its images
VIDEO_INFO = {"video.codec": "h264", "video.pix_fmt": "yuv420p"}
# A key frame every second picture makes random access cheap; one thread gives the same file on every machine.
VIDEO_OPTIONS = ("-crf", "18", "-g", "2", "-bf", "0", "-threads", "1")


@dataclass
class _Place:
    """Rows of the tables for the episodes written so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tasks: dict[str, int] = field(default_factory=dict)
    frames: int = 0
    statistics: list[dict[str, Any]] = field(default_factory=list)


def export(
    dataset: Path, output: Path, *, version: layout.Version = "v2.1", fps: int = 5, images: ImageStorage = "video"
) -> int:
    """Write an RLDS dataset as a LeRobot dataset.

    Args:
        dataset: The RLDS dataset's folder.
        output: Folder of the LeRobot dataset, which must not exist.
        version: Format of the LeRobot dataset.
        fps: Control rate [Hz], by which LeRobot counts time.
        images: video (MP4, small, lossy) or png (columns of the tables, exact).

    Returns:
        The number of episodes.

    Raises:
        ValueError: Version or images are unknown, or video cannot store images of this size.
        FileExistsError: `output` exists already.
    """
    choices = {"version": (version, layout.VERSIONS), "images": (images, get_args(ImageStorage))}
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown; choose from {', '.join(known)}")
    if output.exists():
        raise FileExistsError(f"{output} exists already; remove it, or choose another --output")
    folder = find_dataset(dataset)
    counts = count_episodes(folder)
    temporary = output.with_name(f".{output.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    writer = _Writer(temporary, version, fps, images)
    try:
        for split in counts:
            for episode in read_episodes(folder, split=split):
                writer.add(episode)
    finally:
        writer.close()
    writer.write_meta(counts)
    temporary.rename(output)
    return sum(counts.values())


class _Writer:
    def __init__(self, root: Path, version: layout.Version, fps: int, images: ImageStorage) -> None:
        self.root, self.version, self.fps, self.images = root, version, fps, images
        self.place = _Place()
        self.shapes: dict[str, tuple[int, int, int]] = {}
        self._table: pq.ParquetWriter | None = None
        self._videos: dict[str, VideoWriter] = {}

    def add(self, episode: Episode) -> None:
        """Append one episode."""
        number, place, length = len(self.place.rows), self.place, len(episode.actions)
        cameras = {MAIN_CAMERA: episode.images, **episode.extra_images}
        shapes = {key: (*frames[0].shape[:2], 3) for key, frames in cameras.items()}
        self.shapes = self.shapes or shapes
        row: dict[str, Any] = {"episode_index": number, "tasks": [episode.instruction], "length": length}
        task = place.tasks.setdefault(episode.instruction, len(place.tasks))
        stamps = np.zeros(length, np.int64) if episode.stamps is None else episode.stamps
        columns: dict[str, NDArray[Any]] = {
            "observation.state": episode.states,
            "action": episode.actions,
            "stamp_ns": stamps,
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, number),
            "index": place.frames + np.arange(length),
            "task_index": np.full(length, task),
        }
        statistics = {name: layout.vector_statistics(values) for name, values in columns.items()}
        pictures: dict[str, list[bytes]] = {}
        for key, frames in cameras.items():
            name = layout.camera_name(key)
            if self.images == "png":
                pictures[name] = list(_as_png(frames))
            else:
                row |= self._add_video(name, number, frames, self.shapes[key])
            looked = np.unique(np.linspace(0, length - 1, min(length, STATISTICS_FRAMES)).astype(int))
            statistics[name] = layout.image_statistics(np.stack([frames[int(i)] for i in looked]))
        self._add_table(number, columns, pictures)
        row |= {
            "dataset_from_index": place.frames,
            "dataset_to_index": place.frames + length,
            "episode_id": episode.episode_id,
            "outcome": episode.outcome,
            "score": float(episode.score),
            "file_path": episode.file_path,
        }
        place.rows.append(row)
        place.statistics.append(statistics)
        place.frames += length

    def _add_video(self, name: str, number: int, frames: Any, shape: tuple[int, int, int]) -> dict[str, Any]:
        """Encode one camera's frames; returns the columns that say where they are (v3.0)."""
        whole = self.version == "v3.0"
        path = self.root / layout.VIDEO[self.version].format(
            video_key=name, chunk_index=0, file_index=0, episode_chunk=number // layout.CHUNK, episode_index=number
        )
        if name not in self._videos:
            if shape[0] % 2 or shape[1] % 2:
                raise ValueError(f"images are {shape[0]} x {shape[1]}; video needs even sides: use --images png")
            self._videos[name] = VideoWriter(path, self.fps, VIDEO_OPTIONS)
        video = self._videos[name]
        begin = video.frames
        for frame in frames:
            video.write(frame)
        if not whole:
            self._videos.pop(name).close()
            return {}
        prefix = f"videos/{name}"
        return {
            f"{prefix}/chunk_index": 0, f"{prefix}/file_index": 0,
            f"{prefix}/from_timestamp": begin / self.fps, f"{prefix}/to_timestamp": video.frames / self.fps,
        }  # fmt: skip

    def _add_table(self, number: int, columns: Mapping[str, NDArray[Any]], pictures: Mapping[str, list[bytes]]) -> None:
        arrays = {
            name: pa.array(values.tolist(), pa.list_(pa.float32(), values.shape[1]))
            if values.ndim == 2
            else pa.array(values)
            for name, values in columns.items()
        }
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        for name, encoded in pictures.items():
            arrays[name] = pa.array([{"bytes": data, "path": None} for data in encoded], kind)
        table = pa.table(arrays)
        if pictures:
            table = table.replace_schema_metadata(_hugging_face(table.schema))
        path = self.root / layout.DATA[self.version].format(
            chunk_index=0, file_index=0, episode_chunk=number // layout.CHUNK, episode_index=number
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.version == "v2.1":
            pq.write_table(table, path)
            return
        self._table = self._table or pq.ParquetWriter(path, table.schema)
        self._table.write_table(table)  # one row group an episode

    def close(self) -> None:
        """Close the open files."""
        for video in self._videos.values():
            video.close()
        self._videos.clear()
        if self._table is not None:
            self._table.close()

    def write_meta(self, counts: Mapping[str, int]) -> None:
        """Write info, tasks, episodes and statistics."""
        place, splits, begin = self.place, {}, 0
        for split, number in counts.items():
            splits[split] = f"{begin}:{begin + number}"
            begin += number
        info: dict[str, Any] = {
            "codebase_version": self.version,
            "robot_type": None,
            "total_episodes": len(place.rows),
            "total_frames": place.frames,
            "total_tasks": len(place.tasks),
            "chunks_size": layout.CHUNK,
            "fps": self.fps,
            "splits": splits,
            "data_path": layout.DATA[self.version],
            "video_path": layout.VIDEO[self.version] if self.images == "video" else None,
            "features": layout.features(self.shapes, self.fps, VIDEO_INFO if self.images == "video" else None),
        }
        if self.version == "v2.1":
            info["total_videos"] = len(place.rows) * len(self.shapes) if self.images == "video" else 0
            info["total_chunks"] = -(-len(place.rows) // layout.CHUNK)
            self._write_lines(layout.TASKS_LINES, [{"task_index": n, "task": text} for text, n in place.tasks.items()])
            self._write_lines(layout.EPISODES_LINES, place.rows)
            lines = [{"episode_index": n, "stats": stats} for n, stats in enumerate(place.statistics)]
            self._write_lines(layout.STATS_LINES, lines)
        else:
            info |= {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
            self._write_tables()
        (self.root / layout.INFO).write_text(json.dumps(info, indent=4), "utf-8")
        (self.root / layout.STATS).write_text(json.dumps(_combined(place.statistics), indent=4), "utf-8")

    def _write_lines(self, name: str, lines: list[dict[str, Any]]) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")

    def _write_tables(self) -> None:
        places = {f"{what}/{index}": 0 for what in ("data", "meta/episodes") for index in ("chunk_index", "file_index")}
        rows = [
            row | places | {f"stats/{name}/{key}": value for name, s in stats.items() for key, value in s.items()}
            for row, stats in zip(self.place.rows, self.place.statistics, strict=True)
        ]
        path = self.root / layout.EPISODES_TABLE.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
        tasks = pa.table({"task_index": list(self.place.tasks.values()), "task": list(self.place.tasks)})
        # As pandas writes it: the sentences are the index of the table.
        column = {"metadata": None}
        pandas = {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                column | {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t}
                for n, p, t in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
            ],
            "creator": {"library": "pyarrow", "version": pa.__version__},
            "pandas_version": "2.0.0",
        }
        pq.write_table(
            tasks.replace_schema_metadata({b"pandas": json.dumps(pandas).encode()}), self.root / layout.TASKS_TABLE
        )


def _as_png(frames: Any) -> Iterator[bytes]:
    """Yield an episode's frames as PNG; those that are stored as PNG unchanged."""
    for index, image in enumerate(frames):
        stored = frames.encoded[index] if isinstance(frames, EncodedImages) else b""
        yield stored if stored.startswith(b"\x89PNG") else encode_image(image, "png")


def _hugging_face(schema: pa.Schema) -> dict[bytes, bytes]:
    """Build the metadata by which Hugging Face's datasets recognises image columns."""
    found: dict[str, Any] = {}
    for column in schema:
        if pa.types.is_struct(column.type):
            found[column.name] = {"_type": "Image"}
        elif pa.types.is_fixed_size_list(column.type):
            inner = {"dtype": "float32", "_type": "Value"}
            found[column.name] = {"feature": inner, "length": column.type.list_size, "_type": "Sequence"}
        else:
            dtype = {"float": "float32"}.get(str(column.type), str(column.type))
            found[column.name] = {"dtype": dtype, "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": found}}).encode()}


def _combined(statistics: list[dict[str, Any]]) -> dict[str, Any]:
    """Combine the statistics of the episodes; quantiles are the weighted means of the episodes' quantiles."""
    total: dict[str, Any] = {}
    for name in statistics[0]:
        parts = [one[name] for one in statistics]
        counts = np.array([part["count"][0] for part in parts], float)
        weights = counts / counts.sum()

        def mean(key: str, parts: list[Any] = parts, weights: Any = weights) -> Any:
            return np.tensordot(weights, np.array([part[key] for part in parts]), axes=1)

        middle = mean("mean")
        spread = np.array([np.square(part["std"]) + np.square(np.array(part["mean"]) - middle) for part in parts])
        total[name] = {
            "min": np.min([part["min"] for part in parts], axis=0).tolist(),
            "max": np.max([part["max"] for part in parts], axis=0).tolist(),
            "mean": middle.tolist(),
            "std": np.sqrt(np.tensordot(weights, spread, axes=1)).tolist(),
            "count": [int(counts.sum())],
        } | {key: mean(key).tolist() for key in parts[0] if key.startswith("q")}
    return total
