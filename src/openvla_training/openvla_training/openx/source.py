"""Episodes of a TFDS dataset (TFRecord or ArrayRecord) in any order, of which only the wanted keys are decoded."""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_parser

from openvla_training.rlds.reader import find_dataset, shard_ranges
from openvla_training.rlds.shards import FILE_FORMATS, open_records

TRAIN_SHARE = 95  # [%] of `train` that trains where a dataset has no `val` (reference: rlds/dataset.py)
_OPEN_SHARDS = 16  # ArrayRecord files kept open; of TFRecord files only the offsets of the records are kept
_STEPS = "steps/"
_WHOLE, _PIECE = 16 << 20, 4096  # [bytes] size up to which a shard is hashed whole; size of a sampled piece


class EpisodeSource:
    """The episodes of a split by index; several threads may use it."""

    def __init__(
        self, folder: Path | str, split: str = "train", wanted: Sequence[str] = (), flags: Sequence[str] = ()
    ) -> None:
        """Open a dataset.

        Args:
            folder: The dataset's folder.
            split: train, val or all.
            wanted: Keys of a step, such as `action/world_vector` and `observation/image`.
            flags: Top-level keys, such as `success`.

        Raises:
            FileNotFoundError: There is no dataset.
            ValueError: There is no such split or key.
        """
        self.folder = find_dataset(folder)
        builder = tfds.builder_from_directory(self.folder)
        self.features = builder.info.features
        self._leaves = leaves(self.features)
        spec = {}
        for key in [*(_STEPS + key for key in wanted), *flags]:
            if key not in self._leaves:
                there = ", ".join(sorted(k.removeprefix(_STEPS) for k in self._leaves))
                raise ValueError(f"dataset {self.folder} has no key {key.removeprefix(_STEPS)!r}; it has {there}")
            spec[key] = self._leaves[key].get_serialized_info() if key in flags else _in_steps(self._leaves[key])
        self._wanted, self._flags = tuple(wanted), tuple(flags)
        self._parser = example_parser.ExampleParserNp(spec)
        self._decoders = {key: decoder for key in spec if (decoder := _decoder(self._leaves[key]))}
        self._shards: list[tuple[str, int, int]] = []  # path, its first and past-last record
        self._ends: list[int] = []
        for part, share in _parts(builder.info.splits, split, self.folder):
            info = builder.info.splits[part]
            first, last = (round(info.num_examples * percent / 100) for percent in share)
            for path, low, high in shard_ranges(info, first, last):
                self._shards.append((path, low, high))
                self._ends.append((self._ends[-1] if self._ends else 0) + high - low)
        kind = builder.info.file_format.value
        if kind not in FILE_FORMATS:
            raise ValueError(f"dataset {self.folder} is stored as {kind}; convert it to {' or '.join(FILE_FORMATS)}")
        self._format = kind
        self._open: OrderedDict[str, Callable[[int], bytes]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return an episode's wanted arrays (T, …), images and sentences as bytes, and its flags, both by key."""
        if not 0 <= index < len(self):
            raise IndexError(f"episode {index} of {self.folder}: there are {len(self)}")
        shard = int(np.searchsorted(self._ends, index, side="right"))
        path, low, high = self._shards[shard]
        record = self._record(path, low + index - (self._ends[shard] - (high - low)))
        found = self._parser.parse_example(record)
        for key, decode in self._decoders.items():
            found[key] = decode(found[key])
        return {key: np.asarray(found[_STEPS + key]) for key in self._wanted}, {key: found[key] for key in self._flags}

    def _record(self, path: str, number: int) -> bytes:
        with self._lock:
            if path in self._open:
                self._open.move_to_end(path)
            else:
                self._open[path] = open_records(path, self._format)
                if self._format == "array_record" and len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            return self._open[path](number)

    def image_shape(self, camera: str) -> tuple[int, ...]:
        """Return (height, width, 3) of an observation's camera, as the features state it."""
        return tuple(self._leaves[f"{_STEPS}observation/{camera}"].shape)


def dataset_folder(data_dir: Path | str, name: str, tfds_name: str) -> Path:
    """Find a dataset by its name in the registry or in TFDS.

    Args:
        data_dir: Folder of datasets.
        name: Name in the registry.
        tfds_name: Name in TFDS.

    Returns:
        The version folder.

    Raises:
        FileNotFoundError: It is not there; the message names those that are.
    """
    for candidate in (name, tfds_name):
        if (Path(data_dir) / candidate).is_dir():
            return find_dataset(data_dir, candidate)
    there = ", ".join(sorted(path.name for path in Path(data_dir).glob("*") if path.is_dir())) or "none"
    raise FileNotFoundError(f"dataset {name!r} is not in {data_dir}; datasets there: {there}")


def fingerprint(folder: Path | str) -> str:
    """Hash a dataset's description and shards.

    Of shards above 16 MiB the size and five pieces are hashed, so that a start does not read terabytes.

    Args:
        folder: The dataset's folder.

    Returns:
        16 hex digits.
    """
    digest = hashlib.sha256()
    for path in sorted(find_dataset(folder).iterdir()):
        if path.name in ("features.json", "dataset_info.json"):
            digest.update(path.read_bytes())
        elif "tfrecord" in path.name or "array_record" in path.name:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}".encode())
            with path.open("rb") as file:
                if size <= _WHOLE:
                    digest.update(file.read())
                    continue
                for place in np.linspace(0, size - _PIECE, 5).astype(int):
                    file.seek(place)
                    digest.update(file.read(_PIECE))
    return digest.hexdigest()[:16]


def leaves(features: Any, prefix: str = "") -> dict[str, Any]:
    """List the features that hold data by their path in an example, such as `steps/observation/image`."""
    if isinstance(features, tfds.features.FeaturesDict):
        return {key: leaf for name in features for key, leaf in leaves(features[name], f"{prefix}{name}/").items()}
    if isinstance(features, tfds.features.Dataset):
        return leaves(features.feature, prefix)
    return {prefix[:-1]: features}


def _in_steps(leaf: Any) -> Any:
    return tfds.features.Dataset({"leaf": leaf}).get_serialized_info()["leaf"]


def _decoder(leaf: Any) -> Callable[[Any], Any] | None:
    """Return the function that decodes a tensor which is stored as (compressed) bytes; None for other features."""
    encoding = getattr(leaf, "_encoding", None)
    name = getattr(encoding, "value", "none")
    if isinstance(leaf, tfds.features.Image) or name not in ("zlib", "bytes"):
        return None
    unpack: Callable[[bytes], bytes] = zlib.decompress if name == "zlib" else bytes
    dtype, shape = leaf.np_dtype, tuple(leaf.shape)

    def decode(values: Any) -> np.ndarray:
        return np.stack([np.frombuffer(unpack(value), dtype).reshape(shape) for value in values])

    return decode


def _parts(splits: Mapping[str, Any], split: str, folder: Path) -> list[tuple[str, tuple[int, int]]]:
    """Return the splits to read, and from and to which per cent of each."""
    if split == "all":
        return [(name, (0, 100)) for name in sorted(splits)]
    if split == "train" and "train" in splits:
        return [("train", (0, 100 if "val" in splits else TRAIN_SHARE))]
    if split == "val" and "val" in splits:
        return [("val", (0, 100))]
    if split == "val" and "train" in splits:
        return [("train", (TRAIN_SHARE, 100))]
    raise ValueError(f"dataset {folder} has no split {split!r}; it has {', '.join(splits) or 'none'}")
