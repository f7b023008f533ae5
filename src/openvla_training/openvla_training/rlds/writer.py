"""Write episodes as a TFDS dataset of shards, so that a kill at any moment loses at most the open shard.

`manifest.json` beside the shards lists what is finished: a shard is closed and synced, then entered in the manifest,
and then TFDS's own files are written. Opening an existing dataset reads the manifest, so that the next run appends new
shards and neither repeats nor loses an episode.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer, naming, splits as splits_lib
from tensorflow_datasets.core.dataset_info import DatasetIdentity, DatasetInfo

from openvla_training.rlds.features import MAIN_CAMERA, EncodedEpisode, Shape, episode_features, to_example
from openvla_training.rlds.shards import FILE_FORMATS, ShardWriter, open_shard

VERSION = "1.0.0"
MANIFEST = "manifest.json"
MANIFEST_FORMAT = 2
SENTENCE_MARK = "#"  # between a recording's id and the sentence, where one recording makes several episodes
SHARD_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}"


@dataclass
class Shard:
    """One finished file: split, size [bytes], and id, number of steps and content hash of each episode, in order."""

    split: str
    file: str
    bytes: int = 0
    episodes: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)


def split_of(episode_id: str, val_fraction: float) -> str:
    """Assign an episode to a split by a hash of its id, independent of what was converted before.

    Args:
        episode_id: The id; what follows `SENTENCE_MARK` is ignored, so that episodes over the same frames share a
            split.
        val_fraction: Share of the val split [0..1).

    Returns:
        train or val.
    """
    recording = episode_id.split(SENTENCE_MARK)[0]
    number = int.from_bytes(hashlib.sha256(recording.encode()).digest()[:8], "big")
    return "val" if number / 2**64 < val_fraction else "train"


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's content in one step, so that a crash leaves the old or the new content."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class DatasetWriter:
    """Appends episodes to <output>/<name>/1.0.0; :func:`open_writer` also closes the last shard."""

    def __init__(
        self,
        output: Path,
        name: str,
        *,
        settings: dict[str, Any],
        val_fraction: float = 0.05,
        episodes_per_shard: int = 64,
        file_format: str = "array_record",
    ) -> None:
        """Open or create a dataset.

        Args:
            output: Folder of datasets.
            name: Name of the dataset.
            settings: How the episodes are made (rate, action source, …); `image_encoding` is required. The manifest
                holds them, and appending with other settings is refused: a dataset has one kind of data.
            val_fraction: Share of episodes for the val split [0..1).
            episodes_per_shard: Episodes of one file.
            file_format: Format of the shards.

        Raises:
            ValueError: An argument is wrong, or the dataset exists with other settings or without one of its shards.
        """
        if file_format not in FILE_FORMATS:
            raise ValueError(f"file format {file_format!r} is unknown; choose one of {', '.join(FILE_FORMATS)}")
        if not 0.0 <= val_fraction < 1.0:
            raise ValueError(f"val fraction is {val_fraction}; choose 0 (no validation split) up to below 1")
        if not naming.is_valid_dataset_name(name):
            raise ValueError(f"dataset name {name!r} is not one TFDS takes; use small letters, digits and _")
        self.folder = output / name / VERSION
        self.name = name
        self._settings = {**settings, "val_fraction": val_fraction, "file_format": file_format}
        self._format = file_format
        self._per_shard = episodes_per_shard
        self._val_fraction = val_fraction
        self._open: dict[str, tuple[ShardWriter, Shard]] = {}
        self._features: tfds.features.FeaturesDict | None = None
        self._serializer: example_serializer.ExampleSerializer | None = None
        self.image_shapes: dict[str, Shape] | None = None
        self.shards: list[Shard] = []
        self.sources: dict[str, dict[str, Any]] = {}
        self.bad: dict[str, str] = {}  # reasons of bags that could not be used, for the report; they are tried again
        self.episode_ids: set[str] = set()
        self.content: dict[str, str] = {}  # hash of an episode's content -> its id
        self.folder.mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            return
        manifest = json.loads(path.read_text("utf-8"))
        if manifest.get("format") != MANIFEST_FORMAT:
            raise ValueError(
                f"dataset {self.folder} is of format {manifest.get('format', 1)}, this version appends to format "
                f"{MANIFEST_FORMAT}; convert its bags again under another --dataset-name"
            )
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
                "use those, or choose another --dataset-name"
            )
        self.shards = [Shard(**shard) for shard in manifest["shards"]]
        missing = [shard.file for shard in self.shards if not (self.folder / shard.file).exists()]
        if missing:
            raise ValueError(f"dataset {self.folder} lacks the shard {missing[0]}; restore it, or remove the folder")
        for shard in self.shards:
            self.episode_ids.update(shard.episodes)
            self.content.update(zip(shard.hashes, shard.episodes, strict=True))
        self.sources, self.bad = manifest["sources"], manifest["bad"]
        if manifest["image_shapes"]:
            self._set_image_shapes(manifest["image_shapes"])

    def _set_image_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.image_shapes = {key: (int(h), int(w), int(c)) for key, (h, w, c) in shapes.items()}
        self._features = episode_features(self.image_shapes, self._settings["image_encoding"])
        self._serializer = example_serializer.ExampleSerializer(self._features.get_serialized_info())

    def incompatibility(self, image_shapes: Mapping[str, Shape]) -> str | None:
        """Explain why images of these shapes, by observation key, do not fit the dataset; None where they do."""
        if self.image_shapes is None or dict(image_shapes) == self.image_shapes:
            return None
        if image_shapes.keys() != self.image_shapes.keys():
            return f"cameras are {', '.join(image_shapes)}, those of the dataset {', '.join(self.image_shapes)}"
        key = next(key for key, shape in image_shapes.items() if shape != self.image_shapes[key])
        of = "" if key == MAIN_CAMERA else f" of {key}"
        return f"images{of} are {image_shapes[key]}, those of the dataset are {self.image_shapes[key]}"

    def add(self, episode: EncodedEpisode, image_shapes: Mapping[str, Shape] | Shape) -> str:
        """Append one episode; returns its split. A bare shape is that of the main camera alone."""
        split = self._append(episode, image_shapes)
        self._commit_if_full()
        return split

    def add_source(
        self, path: str, entry: dict[str, Any], episodes: Sequence[EncodedEpisode], image_shapes: Mapping[str, Shape]
    ) -> None:
        """Append all episodes of a bag and record the bag, so that the next run skips it.

        Both enter the manifest together: a kill never leaves a recorded bag with an episode missing.

        Args:
            path: The bag.
            entry: What the manifest holds of the bag.
            episodes: Its episodes.
            image_shapes: Shapes of their images by observation key.
        """
        for episode in episodes:
            self._append(episode, image_shapes)
        self.sources[path] = entry
        self._commit_if_full()

    def _append(self, episode: EncodedEpisode, image_shapes: Mapping[str, Shape] | Shape) -> str:
        shapes = image_shapes if isinstance(image_shapes, Mapping) else {MAIN_CAMERA: image_shapes}
        if incompatibility := self.incompatibility(shapes):
            raise ValueError(f"episode {episode.episode_id!r}: {incompatibility}")
        if self.image_shapes is None:
            self._set_image_shapes(shapes)
        assert self._features is not None and self._serializer is not None
        split = split_of(episode.episode_id, self._val_fraction)
        example = self._serializer.get_tf_example(self._features.encode_example(to_example(episode)))
        # Deterministic: otherwise the order of an example's fields differs between processes.
        record = example.SerializeToString(deterministic=True)
        if split not in self._open:
            index = sum(shard.split == split for shard in self.shards)
            file = f"{self.name}-{split}.{self._format}-{index:05d}"
            self._open[split] = (open_shard(self.folder / file, self._format), Shard(split, file))
        writer, shard = self._open[split]
        writer.write(record)
        shard.bytes += len(record)
        shard.episodes.append(episode.episode_id)
        shard.steps.append(len(episode.images))
        shard.hashes.append(episode.content_hash)
        self.episode_ids.add(episode.episode_id)
        self.content[shard.hashes[-1]] = episode.episode_id
        return split

    def _commit_if_full(self) -> None:
        if any(len(shard.episodes) >= self._per_shard for _, shard in self._open.values()):
            self.commit()

    def commit(self) -> None:
        """Close the open shards and enter them and all sources in the manifest and the dataset."""
        for writer, shard in self._open.values():
            writer.close()
            with (self.folder / shard.file).open("rb") as file:
                os.fsync(file.fileno())
            self.shards.append(shard)
        self._open.clear()
        manifest = {
            "format": MANIFEST_FORMAT,
            "settings": self._settings,
            "image_shapes": self.image_shapes,
            "shards": [asdict(shard) for shard in self.shards],
            "sources": self.sources,
            "bad": self.bad,
        }
        write_atomically(self.folder / MANIFEST, json.dumps(manifest, indent=1))
        self._write_info()

    def abandon(self) -> None:
        """Remove the open shards, which are not in the manifest; their episodes are converted again."""
        for writer, shard in self._open.values():
            writer.close()
            (self.folder / shard.file).unlink(missing_ok=True)
        self._open.clear()

    def _write_info(self) -> None:
        """Write TFDS's own files (features.json, dataset_info.json) as the manifest has it."""
        if self._features is None:
            return
        identity = DatasetIdentity(
            name=self.name, version=tfds.core.Version(VERSION), data_dir=str(self.folder), module_name=""
        )
        info = DatasetInfo(
            builder=identity,
            description=f"{self.name}: robot episodes in the RLDS layout, written by openvla_training.",
            features=self._features,
            # An ordered dataset refuses the interleaved reading of the reference's loader.
            disable_shuffling=False,
        )
        info.set_file_format(self._format, override=True)
        splits = []
        for split in sorted({shard.split for shard in self.shards}):
            shards = [shard for shard in self.shards if shard.split == split]
            template = naming.ShardedFileTemplate(
                data_dir=self.folder,
                dataset_name=self.name,
                split=split,
                filetype_suffix=self._format,
                template=SHARD_TEMPLATE,
            )
            lengths = [len(shard.episodes) for shard in shards]
            size = sum(shard.bytes for shard in shards)
            splits.append(splits_lib.SplitInfo(split, lengths, size, filename_template=template))
        info.set_splits(splits_lib.SplitDict(splits))
        # TFDS writes in place; neither a reader nor the next run may find half a file.
        staging = self.folder / "info.tmp"
        staging.mkdir(exist_ok=True)
        info.write_to_directory(staging)
        # dataset_info.json last: it implies the other files.
        for file in sorted(staging.iterdir(), key=lambda path: path.name == "dataset_info.json"):
            file.replace(self.folder / file.name)
        staging.rmdir()


@contextmanager
def open_writer(output: Path, name: str, **options: Any) -> Iterator[DatasetWriter]:
    """Yield a writer that commits at the end; an error loses only the episodes since the last commit."""
    writer = DatasetWriter(output, name, **options)
    try:
        yield writer
    except BaseException:
        writer.abandon()
        raise
    writer.commit()
