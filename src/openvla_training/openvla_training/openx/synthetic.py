"""Small synthetic datasets in the TFDS schema of a registered one, for tests and for trying a mixture without data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, naming, splits as splits_lib
from tensorflow_datasets.core.dataset_info import DatasetIdentity, DatasetInfo

from openvla_training.openx.dataset import Dataset
from openvla_training.openx.expressions import Call, Columns, Expression
from openvla_training.openx.registry import find
from openvla_training.openx.schemas import SCHEMAS, features_of
from openvla_training.openx.source import leaves
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.shards import open_shard

_UNIT = ("quat", "rotation", "orientation")
_TASKS = ("pick up the red cup", "open the drawer", "push the block left", "wipe the table", "close the lid")


def write_synthetic(
    root: Path | str,
    name: str,
    *,
    episodes: int = 8,
    steps: tuple[int, int] = (6, 12),
    scale: float = 0.1,
    file_format: str = "tfrecord",
    shards: int = 2,
    val_episodes: int = 0,
    seed: int = 0,
    rows: Mapping[str, Dataset] | None = None,
) -> Path:
    """Write a dataset of coloured patches, smooth random motions and a few instructions.

    Args:
        root: Folder of datasets; the dataset is written to root/<TFDS name>/<version>.
        name: The registered dataset.
        episodes: Number of episodes of the train split.
        steps: Least and largest number of steps of an episode.
        scale: Factor on the size of the images.
        file_format: Format of the shards.
        shards: Number of files of a split.
        val_episodes: Number of episodes of the val split; 0 for no such split.
        seed: Seed of the content.
        rows: Rows besides the registry's.

    Returns:
        The dataset's folder.

    Raises:
        ValueError: The dataset is not registered, or has no schema.
    """
    row = find(name, rows)
    if name not in SCHEMAS:
        raise ValueError(f"dataset {name!r} has no schema; choose from {', '.join(sorted(SCHEMAS))}")
    features, written = features_of(name, scale), features_of(name, scale, encoded=True)
    version = row.version or "1.0.0"
    folder = Path(root) / row.folder / version
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, *name.encode()])
    infos = []
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    for split, count in (("train", episodes), ("val", val_episodes)):
        if not count:
            continue
        parts = np.array_split(np.arange(count), min(shards, count))
        size = 0
        for number, part in enumerate(parts):
            path = folder / f"{row.folder}-{split}.{file_format}-{number:05d}-of-{len(parts):05d}"
            writer = open_shard(path, file_format)
            for _ in part:
                length = int(rng.integers(steps[0], steps[1] + 1))
                example = written.encode_example(_episode(features, row, rng, length))
                record = serializer.serialize_example(example)
                writer.write(record)
                size += len(record)
            writer.close()
        template = naming.ShardedFileTemplate(
            data_dir=folder, dataset_name=row.folder, split=split, filetype_suffix=file_format
        )
        infos.append(splits_lib.SplitInfo(split, [len(p) for p in parts], size, filename_template=template))
    identity = DatasetIdentity(row.folder, tfds.core.Version(version), str(folder), "")
    info = DatasetInfo(builder=identity, description=f"synthetic data in the schema of {name}", features=features)
    info.set_file_format(file_format, override=True)
    info.set_splits(splits_lib.SplitDict(infos))
    info.write_to_directory(folder)
    return folder


def _episode(features: Any, row: Dataset, rng: np.random.Generator, count: int) -> dict[str, Any]:
    task = _TASKS[rng.integers(len(_TASKS))]
    whole = {key: leaf for key, leaf in leaves(features).items() if not key.startswith("steps/")}
    columns = {key: _values(key, leaf, row, rng, count, task) for key, leaf in leaves(features["steps"]).items()}
    # As in the published data of Bridge, so that the filter has something to drop.
    if "first_step" in row.filters and "action" in columns:
        columns["action"][0] = 0
    example = _nest({key: _values(key, leaf, row, rng, 1, task)[0] for key, leaf in whole.items()}, features)
    example["steps"] = [
        _nest({key: values[step] for key, values in columns.items()}, features["steps"].feature)
        for step in range(count)
    ]
    return example


def _values(key: str, leaf: Any, row: Dataset, rng: np.random.Generator, count: int, task: str) -> Any:
    if isinstance(leaf, tfds.features.Image):
        return [_picture(leaf, rng) for _ in range(count)]
    if leaf.np_dtype is np.object_ or leaf.np_dtype == np.dtype(object) or isinstance(leaf, tfds.features.Text):
        return [task] * count
    shape, dtype = tuple(leaf.shape), np.dtype(leaf.np_dtype)
    last = key.split("/")[-1]
    if row.characters and f"observation/{last}" in row.language:
        text = np.frombuffer(task.encode("utf-32-le"), np.uint32)
        return np.tile(np.pad(text, (0, shape[0] - len(text))).astype(dtype), (count, 1))
    if last in ("is_first", "is_last", "is_terminal"):
        return np.arange(count) == (0 if last == "is_first" else count - 1)
    if dtype == np.bool_:
        return np.cumsum(rng.random((count, *shape)) < 0.3, 0) % 2 == 0
    if dtype.kind in "iu":
        return (np.cumsum(rng.random((count, *shape)) < 0.3, 0) % 2).astype(dtype)
    walk: np.ndarray = np.clip(np.cumsum(rng.normal(size=(count, *shape)), 0) * 0.1, -1, 1)
    if shape and shape[0] in (4, 8) and ("action" in key or any(word in key for word in _UNIT)):
        begin = 3 if shape[0] == 8 else 0  # where rows read a quaternion
        part = walk[:, begin : begin + 4] + np.array([0, 0, 0, 1])
        walk[:, begin : begin + 4] = part / np.linalg.norm(part, axis=1, keepdims=True)
    if ("gripper" in last or last == "action") and len(shape) < 2:
        walk.reshape(count, -1)[:, -1] = np.cumsum(rng.random(count) < 0.2) % 2
    for columns in _gripper(row.action_expressions[-1]):
        if columns.key == key:
            part = walk.reshape(count, -1)[:, columns.start : columns.stop]
            part[:] = (np.cumsum(rng.random(count) < 0.2) % 2)[:, None]
    return walk.astype(dtype)


def _gripper(expression: Expression) -> list[Columns]:
    """Find the columns of a binary gripper in a row's last action expression."""
    if isinstance(expression, Call) and expression.name in ("gripper", "invert"):
        return [argument for argument in expression.arguments if isinstance(argument, Columns)]
    return []


def _picture(leaf: Any, rng: np.random.Generator) -> bytes:
    height, width, channels = leaf.shape
    if channels == 1:  # depth: TFDS stores a float picture as the bytes of a four-channel PNG
        depth = np.zeros((height, width, 4) if leaf.np_dtype == np.float32 else (height, width), np.uint16)
        return cv2.imencode(".png", depth.astype(np.uint8) if depth.ndim == 3 else depth)[1].tobytes()
    patches = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return encode_image(np.asarray(cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8))


def _nest(flat: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """Invert `leaves`, whose keys may contain slashes themselves."""
    found: dict[str, Any] = {}
    for name in features:
        if name == "steps":
            continue
        if isinstance(features[name], tfds.features.FeaturesDict):
            inner = {key[len(name) + 1 :]: value for key, value in flat.items() if key.startswith(f"{name}/")}
            found[name] = _nest(inner, features[name])
        else:
            found[name] = flat[name]
    return found
