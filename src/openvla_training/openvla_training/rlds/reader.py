"""Read RLDS datasets in order, without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from openvla_training.rlds.features import MAIN_CAMERA, Episode
from openvla_training.rlds.images import EncodedImages
from openvla_training.rlds.shards import open_records

INFO = "dataset_info.json"
IS_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(data_dir: Path | str, name: str | None = None) -> Path:
    """Find a dataset's version folder, which holds dataset_info.json.

    Args:
        data_dir: The version folder itself, or a folder above it.
        name: The dataset; None where `data_dir` holds only one.

    Returns:
        The folder of the newest version.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: There are several, and no name.
    """
    root = Path(data_dir)
    if name is None and (root / INFO).exists():
        return root
    pattern = f"{name}/*/{INFO}" if name else f"**/{INFO}"
    found = [path.parent for path in root.glob(pattern) if IS_VERSION.fullmatch(path.parent.name)]
    names = sorted({path.parent.name for path in found})
    if not found:
        there = sorted({path.parent.parent.name for path in root.glob(f"**/{INFO}")})
        wanted = f"dataset {name!r}" if name else "dataset"
        raise FileNotFoundError(f"no {wanted} in {root}; datasets there: {', '.join(there) or 'none'}")
    if len(names) > 1:
        raise ValueError(f"{root} holds several datasets ({', '.join(names)}); name one")
    return max(found, key=lambda path: [int(number) for number in path.name.split(".")])


def read_episodes(
    data_dir: Path | str, name: str | None = None, split: str = "train", *, start: int = 0, stop: int | None = None
) -> Iterator[Episode]:
    """Read the episodes of a split in order; images are decoded when they are indexed.

    Args:
        data_dir: A dataset's version folder, its parents, or a root that holds several named datasets.
        name: The dataset, where `data_dir` holds several.
        split: train, val, or all for both.
        start: Index of the first episode, so that several workers can share a split.
        stop: Index after the last episode; None for the end.

    Yields:
        The episodes.

    Raises:
        FileNotFoundError: There is no such dataset.
        ValueError: It has no such split.
    """
    folder = find_dataset(data_dir, name)
    builder = tfds.builder_from_directory(folder)
    known = sorted(builder.info.splits)
    if split != "all" and split not in known:
        raise ValueError(f"dataset {folder} has no split {split!r}; choose one of {', '.join([*known, 'all'])}")
    begin = 0
    for part in known if split == "all" else [split]:
        count = builder.info.splits[part].num_examples
        first, last = max(start - begin, 0), count if stop is None else min(stop - begin, count)
        begin += count
        if first < last:
            for record in _records(builder, part, first, last):
                yield _episode(record)


def count_episodes(data_dir: Path | str, name: str | None = None) -> dict[str, int]:
    """Count the episodes of each split."""
    info = tfds.builder_from_directory(find_dataset(data_dir, name)).info
    return {split: info.splits[split].num_examples for split in info.splits}


def camera_keys(features: Any) -> list[str]:
    """List the observation keys that hold images, the main camera first."""
    observation = features["steps"].feature["observation"]
    keys = [key for key in observation if isinstance(observation[key], tfds.features.Image)]
    return sorted(keys, key=lambda key: (key != MAIN_CAMERA, key))


def shard_ranges(info: Any, first: int, last: int) -> Iterator[tuple[str, int, int]]:
    """Find where a range of a split's episodes is stored.

    Args:
        info: The split's info (tfds.core.SplitInfo).
        first: Index of the first episode.
        last: Index after the last one.

    Yields:
        Path of a shard, number of its first record in the range, number after its last one.
    """
    begin = 0
    for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
        low, high = max(first - begin, 0), min(last - begin, length)
        begin += length
        if low < high:
            yield str(path), low, high


def _records(builder: Any, split: str, first: int, last: int) -> Iterator[dict[str, Any]]:
    """Yield decoded episodes `first` up to before `last` of a split, images still encoded."""
    features = builder.info.features
    skip = {"steps": {"observation": {key: tfds.decode.SkipDecoding() for key in camera_keys(features)}}}
    for path, low, high in shard_ranges(builder.info.splits[split], first, last):
        read = open_records(path, builder.info.file_format.value)
        for number in range(low, high):
            yield features.deserialize_example_np(read(number), decoders=skip)


def _episode(record: dict[str, Any]) -> Episode:
    metadata = record["episode_metadata"]
    steps = list(record["steps"])
    cameras = {
        key: EncodedImages([bytes(step["observation"][key]) for step in steps])
        for key, value in steps[0]["observation"].items()
        if isinstance(value, bytes)
    }
    stamps = np.array([step.get("timestamp", 0) for step in steps], np.int64)
    return Episode(
        episode_id=_text(metadata["episode_id"]),
        images=cameras.pop(MAIN_CAMERA),
        states=np.stack([step["observation"]["state"] for step in steps]),
        actions=np.stack([step["action"] for step in steps]),
        instruction=_text(steps[0]["language_instruction"]),
        outcome=_text(metadata["outcome"]),
        score=float(metadata["score"]),
        file_path=_text(metadata["file_path"]),
        extra_images=dict(sorted(cameras.items())),
        stamps=stamps if stamps.any() else None,
    )


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
