"""Read RLDS datasets back, fast and in order, without TensorFlow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from openvla_training.rlds.features import Episode
from openvla_training.rlds.images import EncodedImages

INFO = "dataset_info.json"
IS_VERSION = re.compile(r"\d+\.\d+\.\d+")


def find_dataset(data_dir: Path | str, name: str | None = None) -> Path:
    """Find the folder with dataset_info.json: ``data_dir`` itself, or its (named or only) dataset's newest version."""
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
    """Yield the episodes of a split in their order, images decoded only when asked for.

    Args:
        data_dir: a dataset's version folder, its parents, or a root that holds several named datasets.
        name: the dataset, when ``data_dir`` holds several.
        split: ``train``, ``val``, or ``all`` for both.
        start: index of the first episode wanted, so that several workers can share a split.
        stop: index after the last one; None for the end.

    Raises:
        FileNotFoundError: there is no such dataset. ValueError: it has no such split.
    """
    folder = find_dataset(data_dir, name)
    builder = tfds.builder_from_directory(folder)
    known = sorted(builder.info.splits)
    if split != "all" and split not in known:
        raise ValueError(f"dataset {folder} has no split {split!r}; choose one of {', '.join([*known, 'all'])}")
    skip = {"steps": {"observation": {"image": tfds.decode.SkipDecoding()}}}
    index = 0
    for part in known if split == "all" else [split]:
        source = builder.as_data_source(part, decoders=skip)
        for position in range(len(source)):
            if index >= start and (stop is None or index < stop):
                yield _episode(source[position])
            index += 1


def count_episodes(data_dir: Path | str, name: str | None = None) -> dict[str, int]:
    """Return the number of episodes of each split."""
    info = tfds.builder_from_directory(find_dataset(data_dir, name)).info
    return {split: info.splits[split].num_examples for split in info.splits}


def _episode(record: dict) -> Episode:
    metadata = record["episode_metadata"]
    steps = list(record["steps"])

    def text(value: bytes | str) -> str:
        return value.decode() if isinstance(value, bytes) else str(value)

    return Episode(
        episode_id=text(metadata["episode_id"]),
        images=EncodedImages([step["observation"]["image"] for step in steps]),
        states=np.stack([step["observation"]["state"] for step in steps]),
        actions=np.stack([step["action"] for step in steps]),
        instruction=text(steps[0]["language_instruction"]),
        outcome=text(metadata["outcome"]),
        score=float(metadata["score"]),
        file_path=text(metadata["file_path"]),
    )
