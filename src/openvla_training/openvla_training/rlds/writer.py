"""Write episodes as a TFDS dataset of ArrayRecord shards, so that a kill at any moment costs at most the open shard.

``manifest.json`` beside the shards is the truth about what is finished: a shard is closed and synced first, then it
is entered there, and only then do TFDS's own files follow. Opening an existing dataset goes back to the manifest, so
the next run appends new shards and never repeats or loses an episode.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer, naming, splits as splits_lib
from tensorflow_datasets.core.dataset_info import DatasetIdentity, DatasetInfo

from openvla_training.rlds.features import EncodedEpisode, episode_features, to_example

VERSION = "1.0.0"
MANIFEST = "manifest.json"
SENTENCE_MARK = "#"  # between a recording's id and the sentence, where one recording makes several episodes
SUFFIX = "array_record"
SHARD_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"


@dataclass
class Shard:
    """One finished file: which split, how many bytes, and for each episode its id and number of steps, in order."""

    split: str
    file: str
    bytes: int = 0
    episodes: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def split_of(episode_id: str, val_fraction: float) -> str:
    """Put an episode into train or val by a hash of its id: the same in every run, whatever was converted before.

    Episodes over the same frames (their ids differ behind ``SENTENCE_MARK``) go the same way.
    """
    recording = episode_id.split(SENTENCE_MARK)[0]
    number = int.from_bytes(hashlib.sha256(recording.encode()).digest()[:8], "big")
    return "val" if number / 2**64 < val_fraction else "train"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step that survives a crash."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class DatasetWriter:
    """Appends episodes to ``<output>/<name>/1.0.0``; use :func:`open_writer` so that the last shard gets closed."""

    def __init__(
        self,
        output: Path,
        name: str,
        *,
        settings: dict[str, Any],
        val_fraction: float = 0.05,
        episodes_per_shard: int = 64,
    ) -> None:
        """Open or create the dataset.

        ``settings``: how the episodes are made (rate, action source, …). They are kept in the manifest; appending
        with other settings is refused, since it would mix two kinds of data in one dataset.
        """
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"val fraction is {val_fraction}; choose 0 (no validation split) up to below 1")
        if not naming.is_valid_dataset_name(name):
            raise ValueError(f"dataset name {name!r} is not one TFDS takes; use small letters, digits and _")
        self.folder = output / name / VERSION
        self.name = name
        self._settings = {**settings, "val_fraction": val_fraction}
        self._per_shard = episodes_per_shard
        self._val_fraction = val_fraction
        self._open: dict[str, tuple[ArrayRecordWriter, Shard]] = {}
        self._features: tfds.features.FeaturesDict | None = None
        self._serializer: example_serializer.ExampleSerializer | None = None
        self.image_shape: tuple[int, int, int] | None = None
        self.shards: list[Shard] = []
        self.sources: dict[str, dict[str, Any]] = {}
        self.episode_ids: set[str] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            return
        manifest = json.loads(path.read_text("utf-8"))
        wanted = json.loads(json.dumps(self._settings))
        different = {
            key: (manifest["settings"].get(key), wanted.get(key))
            for key in manifest["settings"].keys() | wanted.keys()
            if manifest["settings"].get(key) != wanted.get(key)
        }
        if different:
            listed = "; ".join(f"{key}: {old!r} there, {new!r} now" for key, (old, new) in different.items())
            raise ValueError(
                f"dataset {self.folder} was made with other settings ({listed}); "
                "repeat those, or choose another --dataset-name"
            )
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        missing = [shard.file for shard in self.shards if not (self.folder / shard.file).exists()]
        if missing:
            raise ValueError(f"dataset {self.folder} lacks the shard {missing[0]}; restore it or remove the folder")
        self.episode_ids = {episode for shard in self.shards for episode in shard.episodes}
        self.sources = manifest["sources"]
        if manifest["image_shape"]:
            self._set_image_shape(tuple(manifest["image_shape"]))

    def _set_image_shape(self, shape: tuple[int, int, int]) -> None:
        self.image_shape = shape
        self._features = episode_features(shape, self._settings["image_encoding"])
        self._serializer = example_serializer.ExampleSerializer(self._features.get_serialized_info())

    def add(self, episode: EncodedEpisode, image_shape: tuple[int, int, int]) -> str:
        """Append one episode; returns the split it went to."""
        if self.image_shape is None:
            self._set_image_shape(image_shape)
        if image_shape != self.image_shape:
            raise ValueError(f"images are {image_shape}, those of dataset {self.name} are {self.image_shape}")
        assert self._features is not None and self._serializer is not None
        split = split_of(episode.episode_id, self._val_fraction)
        record = self._serializer.serialize_example(self._features.encode_example(to_example(episode)))
        if split not in self._open:
            index = sum(shard.split == split for shard in self.shards)
            file = f"{self.name}-{split}.{SUFFIX}-{index:05d}"
            # One record a group: each episode can be read alone.
            self._open[split] = (ArrayRecordWriter(str(self.folder / file), "group_size:1"), Shard(split, file))
        writer, shard = self._open[split]
        writer.write(record)
        shard.bytes += len(record)
        shard.episodes.append(episode.episode_id)
        self.episode_ids.add(episode.episode_id)
        shard.steps.append(len(episode.images))
        if len(shard.episodes) >= self._per_shard:
            self.commit()
        return split

    def note_source(self, path: str, entry: dict[str, Any]) -> None:
        """Remember a bag that has been dealt with (what came of it), so that the next run leaves it out."""
        self.sources[path] = entry

    def commit(self) -> None:
        """Close the open shards and enter them, and all noted sources, into manifest and dataset."""
        for writer, shard in self._open.values():
            writer.close()
            with (self.folder / shard.file).open("rb") as file:
                os.fsync(file.fileno())
            self.shards.append(shard)
        self._open.clear()
        manifest = {
            "settings": self._settings,
            "image_shape": self.image_shape,
            "shards": [asdict(shard) for shard in self.shards],
            "sources": self.sources,
        }
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        self._write_info()

    def abandon(self) -> None:
        """Drop the open shards: what they hold is not in the manifest and will be converted again."""
        for writer, shard in self._open.values():
            writer.close()
            (self.folder / shard.file).unlink(missing_ok=True)
        self._open.clear()

    def _write_info(self) -> None:
        """Bring TFDS's own files (features.json, dataset_info.json) to what the manifest says."""
        if self._features is None:
            return
        identity = DatasetIdentity(
            name=self.name, version=tfds.core.Version(VERSION), data_dir=str(self.folder), module_name=""
        )
        info = DatasetInfo(
            builder=identity,
            description=f"{self.name}: robot episodes converted from rosbag2 by openvla-convert.",
            features=self._features,
            disable_shuffling=True,
        )
        info.set_file_format(SUFFIX, override=True)
        splits = []
        for split in sorted({shard.split for shard in self.shards}):
            shards = [shard for shard in self.shards if shard.split == split]
            template = naming.ShardedFileTemplate(
                data_dir=self.folder,
                dataset_name=self.name,
                split=split,
                filetype_suffix=SUFFIX,
                template=SHARD_TEMPLATE,
            )
            lengths = [len(shard.episodes) for shard in shards]
            size = sum(shard.bytes for shard in shards)
            splits.append(splits_lib.SplitInfo(split, lengths, size, filename_template=template))
        info.set_splits(splits_lib.SplitDict(splits))
        # TFDS writes in place; a reader or a kill in between must not find half a file.
        staging = self.folder / "info.tmp"
        staging.mkdir(exist_ok=True)
        info.write_to_directory(staging)
        for file in staging.iterdir():
            file.replace(self.folder / file.name)
        staging.rmdir()


@contextmanager
def open_writer(output: Path, name: str, **options: Any) -> Iterator[DatasetWriter]:
    """Yield a :class:`DatasetWriter`: commits at the end; an error costs only the episodes since the last commit."""
    writer = DatasetWriter(output, name, **options)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.commit()
