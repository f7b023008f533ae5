"""Episodes of a TFDS dataset in any order, TFRecord as published or ArrayRecord: only the wanted keys."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from tensorflow_datasets.core import example_parser

from openvla_training.rlds.reader import find_dataset
from openvla_training.rlds.shards import FILE_FORMATS, masked_crc

TRAIN_SHARE = 95  # [%] of `train` that trains where a dataset has no `val` (reference: rlds/dataset.py)
_OPEN_SHARDS = 16  # ArrayRecord files held open; of TFRecord files only the places of the records are kept
_STEPS = "steps/"
_WHOLE, _PIECE = 16 << 20, 4096  # [bytes] of a shard that go into a fingerprint


class EpisodeSource:
    """The episodes of a split by index; safe to use from several threads.

    `wanted` are keys of a step (`action/world_vector`, `observation/image`); `flags` are top-level keys.
    """

    def __init__(
        self, folder: Path | str, split: str = "train", wanted: Sequence[str] = (), flags: Sequence[str] = ()
    ) -> None:
        """Open a dataset folder. `split`: train, val or all.

        Raises:
            FileNotFoundError: there is no dataset. ValueError: no such split, or a wanted key is not there.
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
            begin = 0
            for path, length in zip(info.filepaths, info.shard_lengths, strict=True):
                low, high = max(first - begin, 0), min(last - begin, length)
                begin += length
                if low < high:
                    self._shards.append((str(path), low, high))
                    self._ends.append((self._ends[-1] if self._ends else 0) + high - low)
        kind = builder.info.file_format.value
        if kind not in FILE_FORMATS:
            raise ValueError(f"dataset {self.folder} is stored as {kind}; convert it to {' or '.join(FILE_FORMATS)}")
        self._array_records = kind == "array_record"
        self._open: OrderedDict[str, Callable[[int], bytes]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Episode `index`: its wanted arrays (T, …) by key, pictures and sentences as bytes objects, and its flags."""
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
                self._open[path] = _array_record(path) if self._array_records else _tfrecord(path)
                if self._array_records and len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            return self._open[path](number)

    def image_shape(self, camera: str) -> tuple[int, ...]:
        """(height, width, 3) of an observation's camera, as the features say."""
        return tuple(self._leaves[f"{_STEPS}observation/{camera}"].shape)


def dataset_folder(data_dir: Path | str, name: str, tfds_name: str) -> Path:
    """A dataset's version folder under `data_dir`, by its name in the registry or in TFDS.

    Raises:
        FileNotFoundError: it is not there; the message names those that are.
    """
    for candidate in (name, tfds_name):
        if (Path(data_dir) / candidate).is_dir():
            return find_dataset(data_dir, candidate)
    there = ", ".join(sorted(path.name for path in Path(data_dir).glob("*") if path.is_dir())) or "none"
    raise FileNotFoundError(f"dataset {name!r} is not in {data_dir}; datasets there: {there}")


def fingerprint(folder: Path | str) -> str:
    """16 hex digits that change with a dataset's content: its description, and each shard.

    Of shards above 16 MiB the size and five pieces are looked at, so that a start does not read terabytes.
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
    """All features that hold data, by their path in an example: `steps/observation/image`."""
    if isinstance(features, tfds.features.FeaturesDict):
        return {key: leaf for name in features for key, leaf in leaves(features[name], f"{prefix}{name}/").items()}
    if isinstance(features, tfds.features.Dataset):
        return leaves(features.feature, prefix)
    return {prefix[:-1]: features}


def _in_steps(leaf: Any) -> Any:
    return tfds.features.Dataset({"leaf": leaf}).get_serialized_info()["leaf"]


def _decoder(leaf: Any) -> Callable[[Any], Any] | None:
    """What un-packs a tensor that its features say is stored as (compressed) bytes."""
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
    """The splits to read and which per cent of each."""
    if split == "all":
        return [(name, (0, 100)) for name in sorted(splits)]
    if split == "train" and "train" in splits:
        return [("train", (0, 100 if "val" in splits else TRAIN_SHARE))]
    if split == "val" and "val" in splits:
        return [("val", (0, 100))]
    if split == "val" and "train" in splits:
        return [("train", (TRAIN_SHARE, 100))]
    raise ValueError(f"dataset {folder} has no split {split!r}; it has {', '.join(splits) or 'none'}")


def _array_record(path: str) -> Callable[[int], bytes]:
    reader = ArrayRecordReader(path)
    return lambda number: reader.read([number])[0]


def _tfrecord(path: str) -> Callable[[int], bytes]:
    """Random access into a TFRecord file: its lengths are read once, the data are checked when they are read."""
    found: list[tuple[int, int]] = []
    with Path(path).open("rb") as file:
        end = file.seek(0, 2)
        place = 0
        while place < end:
            file.seek(place)
            head = file.read(12)
            if len(head) < 12 or masked_crc(head[:8]) != struct.unpack("<I", head[8:])[0]:
                raise ValueError(f"{path}: the length of record {len(found)} is damaged; restore the file")
            (length,) = struct.unpack("<Q", head[:8])
            found.append((place + 12, length))
            place += length + 16
    offsets = np.array(found, np.int64)

    def read(number: int) -> bytes:
        start, length = (int(value) for value in offsets[number])
        with Path(path).open("rb") as file:
            file.seek(start)
            data, tail = file.read(length), file.read(4)
        if len(tail) < 4 or masked_crc(data) != struct.unpack("<I", tail)[0]:
            raise ValueError(f"{path}: record {number} is cut off or damaged; restore the file")
        return data

    return read
