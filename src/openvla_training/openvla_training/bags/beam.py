"""Thousands of bags at once: one Apache Beam pipeline for the whole dataset, written by TFDS's own Beam path.

Any Beam runner works; every worker needs this package, and the bags and the output under the same paths. Unlike
`convert_all` it cannot append: a pipeline writes the whole dataset, and one that fails leaves nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import naming

from openvla_training.bags.convert_all import Summary, settings_of
from openvla_training.bags.convert_bag import Converted, Options, convert_bag
from openvla_training.bags.episodes import BadBag
from openvla_training.rlds.features import EncodedEpisode, Shape, episode_features, to_example
from openvla_training.rlds.reader import read_episodes
from openvla_training.rlds.statistics import write_statistics
from openvla_training.rlds.writer import MANIFEST, VERSION, split_of, write_atomically


def convert_with_beam(
    bags: Sequence[Path],
    output: Path,
    name: str,
    options: Options,
    *,
    strict: bool = False,
    val_fraction: float = 0.05,
    file_format: str = "array_record",
    pipeline_options: Sequence[str] = (),
    progress: Callable[[Converted], None] | None = None,
) -> Summary:
    """Convert all bags in a pipeline.

    Args:
        bags: The bags.
        output: Folder of datasets.
        name: Name of the dataset.
        options: How episodes are made.
        strict: Whether a bad bag or episode fails the whole conversion.
        val_fraction: Share of episodes for the val split.
        file_format: Format of the shards.
        pipeline_options: Options of Beam, such as `--runner=FlinkRunner`; the direct runner by default.
        progress: Called with the result of each bag, in order, after the pipeline.

    Returns:
        Counts over the whole run.

    Raises:
        BadBag: Nothing can be converted, or, with `strict`, a bag cannot; no dataset is left.
        ValueError: The dataset exists already.
    """
    folder = output / name / VERSION
    if folder.exists():
        raise ValueError(f"{folder} exists, and --beam cannot append; remove it, or choose another --dataset-name")
    if not naming.is_valid_dataset_name(name):
        raise ValueError(f"dataset name {name!r} is not one TFDS takes; use small letters, digits and _")
    # All images must have the shapes of those of the first bag that converts, as without Beam.
    first = next((one for one in (convert_bag(bag, options) for bag in bags) if one.episodes), None)
    if first is None:
        raise BadBag("none of the bags can be converted; run without --beam to see why")
    notes = output / f".{name}.notes"
    shutil.rmtree(notes, ignore_errors=True)
    notes.mkdir(parents=True)
    job = _Job(options, first.image_shapes, val_fraction, notes)
    try:
        _run(job, bags, output, name, file_format, pipeline_options)
        summary = _collect(job, bags, folder, progress)
        if strict and (reason := next(iter((summary.bad | summary.bad_episodes).items()), None)):
            raise BadBag(f"{reason[0]}: {reason[1]} (--strict)")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    write_statistics(folder)
    return summary


@dataclass(frozen=True)
class _Job:
    """Input of every worker; `notes` is the folder for one small file a bag with its result."""

    options: Options
    shapes: dict[str, Shape]
    val_fraction: float
    notes: Path

    def episodes(self, bag: Path) -> Iterator[tuple[str, EncodedEpisode]]:
        """Convert a bag; yields (hash of the content, episode)."""
        result = convert_bag(bag, self.options)
        if not result.bad and result.episodes and result.image_shapes != self.shapes:
            result = Converted(bag, bad=f"images are {result.image_shapes}, those of the dataset are {self.shapes}")
        note = asdict(replace(result, episodes=(), bag=Path()))
        note.pop("bag")
        # A retried bag writes the same file again.
        name = hashlib.sha256(str(bag).encode()).hexdigest()
        (self.notes / f"{name}.json").write_text(json.dumps(note | {"path": str(bag)}), "utf-8")
        for episode in result.episodes:
            yield episode.content_hash, episode

    def first_of(self, same: tuple[str, Any]) -> EncodedEpisode:
        """Of episodes with the same content take the one that sorts first, in whatever order the workers finish."""
        return min(same[1], key=lambda episode: (episode.file_path, episode.episode_id))

    def is_in(self, episode: EncodedEpisode, split: str) -> bool:
        """Whether an episode belongs to a split."""
        return split_of(episode.episode_id, self.val_fraction) == split


def keyed(episode: EncodedEpisode) -> tuple[str, dict[str, Any]]:
    """Return (key, example) for TFDS."""
    return episode.episode_id, to_example(episode)


def _run(
    job: _Job, bags: Sequence[Path], output: Path, name: str, file_format: str, pipeline_options: Sequence[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)  # about cloud clients that are not installed
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        logging.disable(logging.NOTSET)
    logging.getLogger("apache_beam").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    splits = ("train", "val") if job.val_fraction else ("train",)

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
        """Passes the pipeline to TFDS, which writes the shards and its metadata."""

        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            features = episode_features(job.shapes, job.options.image_encoding)
            return tfds.core.DatasetInfo(builder=self, features=features, description="Made by openvla-convert --beam.")

        def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:
            episodes = (
                pipeline
                | "Bags" >> beam.Create(list(bags))
                | "Spread" >> beam.Reshuffle()
                | "Convert" >> beam.FlatMap(job.episodes)
                | "ByContent" >> beam.GroupByKey()
                | "OneOfEach" >> beam.Map(job.first_of)
            )
            return {
                split: episodes | f"Select{split}" >> beam.Filter(job.is_in, split) | f"Key{split}" >> beam.Map(keyed)
                for split in splits
            }

        def _generate_examples(self) -> Any:
            raise NotImplementedError("the pipeline generates them")

    Builder.name = name
    options = PipelineOptions(list(pipeline_options))
    builder = Builder(data_dir=str(output), file_format=file_format)
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(beam_options=options))
    except Exception as error:
        if "generated examples is 0" not in str(error):
            raise
        raise ValueError("a split has no episode, which Beam cannot write; use --val-fraction 0") from error


def _collect(job: _Job, bags: Sequence[Path], folder: Path, progress: Callable[[Converted], None] | None) -> Summary:
    """Combine the workers' notes, in the order of the bags."""
    summary = Summary(folder)
    sources: dict[str, dict[str, Any]] = {}
    notes = {note["path"]: note for note in (json.loads(p.read_text("utf-8")) for p in job.notes.iterdir())}
    for bag in bags:
        note = notes[str(bag)]
        note.pop("path")
        result = Converted(bag, **note)
        if result.bad:
            summary.bad[str(bag)] = result.bad
        else:
            facts = {"dropped": result.dropped, "bad": result.bad_episodes, "quality": result.quality}
            sources[str(bag)] = facts | {"seconds": result.seconds}
        summary.bad_episodes |= result.bad_episodes
        summary.dropped |= result.dropped
        summary.recorded_seconds += result.seconds
        for reason, number in result.left_out.items():
            summary.left_out[reason] = summary.left_out.get(reason, 0) + number
        if progress:
            progress(result)
    info = tfds.builder_from_directory(folder).info
    summary.splits = {split: info.splits[split].num_examples for split in info.splits}
    summary.episodes = sum(summary.splits.values())
    summary.steps = sum(len(episode.actions) for episode in read_episodes(folder, split="all"))
    # For the report. The format keeps `convert_all` from appending.
    manifest = {"format": "beam", "settings": settings_of(job.options), "sources": sources, "bad": summary.bad}
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1))
    return summary
