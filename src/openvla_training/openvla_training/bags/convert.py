"""Convert bags to an RLDS dataset: one function a bag, which any process can run, and the loop that collects."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openvla_training.bags.actions import ACHIEVED, EXECUTED_TOPIC, Steps, make_steps, sentences
from openvla_training.bags.episodes import BadBag, Recording, Topics
from openvla_training.bags.reading import read_frames, read_recordings
from openvla_training.rlds.features import EncodedEpisode
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.statistics import write_statistics
from openvla_training.rlds.writer import SENTENCE_MARK, DatasetWriter, open_writer

# Outcomes that are left out of a dataset of demonstrations unless asked for.
NOT_SUCCESSFUL = ("failure", "unfinished")
# A process costs as much to start as some fifty bags cost to convert.
BAGS_A_WORKER = 50


@dataclass(frozen=True)
class Options:
    """How episodes are made. All of it goes into the dataset's manifest: one dataset, one way."""

    actions: str = EXECUTED_TOPIC
    rate: float | None = None
    max_skew: float = 0.1
    drop_noops: bool = False
    keep_failed: bool = False
    image_size: int | None = 256
    image_encoding: str = "jpeg"
    topics: Topics = field(default_factory=Topics)

    @property
    def action_topics(self) -> tuple[str, ...]:
        """The ActionChunk topics that the bags must have."""
        return () if self.actions == ACHIEVED else tuple(dict.fromkeys((EXECUTED_TOPIC, self.actions)))


@dataclass(frozen=True)
class Converted:
    """What became of a bag: its episodes, the dropped ones with the reason, and ``bad``: why it is unusable."""

    bag: Path
    episodes: tuple[EncodedEpisode, ...] = ()
    image_shape: tuple[int, int, int] | None = None
    dropped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    bad: str | None = None


@dataclass
class Summary:
    """Counts over a whole run; ``bad`` maps a bag to its reason."""

    folder: Path
    episodes: int = 0
    steps: int = 0
    already: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    recorded_seconds: float = 0.0
    splits: dict[str, int] = field(default_factory=dict)


def convert_bag(bag: Path, options: Options) -> Converted:
    """Convert one bag; a broken one becomes ``bad`` with the reason instead of an error."""
    episodes: list[EncodedEpisode] = []
    dropped: dict[str, str] = {}
    left_out: dict[str, int] = {}
    shape: tuple[int, int, int] | None = None
    seconds = 0.0
    try:
        for recording in read_recordings(bag, options.action_topics, options.topics):
            if recording.outcome in NOT_SUCCESSFUL and not options.keep_failed:
                dropped[recording.episode_id] = recording.outcome
                continue
            encoded: dict[tuple[int, ...], list[bytes]] = {}  # sentences mostly share their frames
            wanted = sentences(recording, options.actions)
            for sentence in wanted:
                steps = make_steps(
                    recording,
                    options.actions,
                    rate=options.rate,
                    max_skew=options.max_skew,
                    drop_noops=options.drop_noops,
                    sentence=sentence if len(wanted) > 1 else None,
                )
                key = tuple(int(index) for index in steps.frames)
                if key not in encoded:
                    frames = [_resized(frame, options.image_size) for frame in read_frames(recording, list(key))]
                    for frame in frames:
                        if shape is not None and frame.shape != shape:
                            raise BadBag(f"images are {frame.shape}, in the bag's earlier episodes {shape}")
                        shape = (frame.shape[0], frame.shape[1], 3)
                    encoded[key] = [encode_image(frame, options.image_encoding) for frame in frames]
                suffix = f"{SENTENCE_MARK}{sentence}" if len(wanted) > 1 else ""
                episodes.append(_episode(recording, steps, encoded[key], suffix))
                for reason, number in steps.left_out.items():
                    left_out[reason] = left_out.get(reason, 0) + number
            seconds += float(recording.image_stamps[-1] - recording.image_stamps[0]) * 1e-9
    except BadBag as error:
        return Converted(bag, bad=str(error))
    return Converted(bag, tuple(episodes), shape, dropped, left_out, seconds)


def _resized(frame: NDArray[np.uint8], size: int | None) -> NDArray[np.uint8]:
    if size is None or frame.shape[:2] == (size, size):
        return frame
    # Not at the top: it brings in torch, which most conversions (camera size = dataset size) do without.
    from openvla_policy.contract.image import ImagePreparation

    return ImagePreparation.standard(size, ["half"]).resize(frame)


def _episode(recording: Recording, steps: Steps, images: list[bytes], suffix: str) -> EncodedEpisode:
    if len(images) != len(steps.states):
        raise BadBag(f"{len(steps.states)} frames are needed, the bag holds {len(images)} of them")
    return EncodedEpisode(
        episode_id=recording.episode_id + suffix,
        images=images,
        states=steps.states.astype(np.float32),
        actions=steps.actions.astype(np.float32),
        instructions=steps.instructions,
        outcome=recording.outcome,
        score=recording.score,
        file_path=str(recording.bag),
    )


def convert(
    bags: Sequence[Path],
    output: Path,
    name: str,
    options: Options,
    *,
    workers: int = 1,
    strict: bool = False,
    val_fraction: float = 0.05,
    progress: Callable[[Converted], None] | None = None,
) -> Summary:
    """Convert the bags that the dataset does not know yet, in order, and bring its statistics up to date.

    Raises:
        BadBag: with ``strict``, at the first bad bag; what was converted before it stays.
        ValueError: the dataset exists with other settings.
    """
    settings = _settings(options)
    with open_writer(output, name, settings=settings, val_fraction=val_fraction) as writer:
        summary = Summary(writer.folder)
        todo = [bag for bag in bags if str(bag) not in writer.sources]
        summary.already = len(bags) - len(todo)
        for result in _convert_all(todo, options, workers):
            result = _collect(writer, result, summary)
            if progress:
                progress(result)
            if strict and result.bad:
                writer.commit()
                raise BadBag(f"{result.bag}: {result.bad} (--strict)")
    if writer.shards:
        write_statistics(writer.folder)
    for shard in writer.shards:
        summary.splits[shard.split] = summary.splits.get(shard.split, 0) + len(shard.episodes)
    return summary


def _settings(options: Options) -> dict[str, Any]:
    topics = options.topics
    return {
        "actions": options.actions,
        "rate": options.rate,
        "max_skew": options.max_skew,
        "drop_noops": options.drop_noops,
        "keep_failed": options.keep_failed,
        "image_size": options.image_size,
        "image_encoding": options.image_encoding,
        "topics": {"image": topics.image, "ee_pose": topics.ee_pose, "gripper": topics.gripper},
    }


def _collect(writer: DatasetWriter, result: Converted, summary: Summary) -> Converted:
    """Enter one bag's episodes; returns the result, which may have become bad by what the dataset holds already.

    A bad bag is not noted as done, so that the next run tries it again.
    """
    shape = result.image_shape
    if not result.bad and shape and writer.image_shape and shape != writer.image_shape:
        result = Converted(result.bag, bad=f"images are {shape}, those of the dataset are {writer.image_shape}")
    if result.bad:
        summary.bad[str(result.bag)] = result.bad
        return result
    dropped = dict(result.dropped)
    # Noted first: adding may close the shard, and bag and episodes must reach the manifest together.
    kept = []
    for episode in result.episodes:
        if episode.episode_id in writer.episode_ids:
            dropped[episode.episode_id] = "duplicate"
        else:
            kept.append(episode)
    writer.note_source(str(result.bag), {"episodes": [episode.episode_id for episode in kept], "dropped": dropped})
    for episode in kept:
        assert shape is not None
        writer.add(episode, shape)
        summary.episodes += 1
        summary.steps += len(episode.images)
    summary.dropped |= dropped
    for reason, number in result.left_out.items():
        summary.left_out[reason] = summary.left_out.get(reason, 0) + number
    summary.recorded_seconds += result.seconds
    return result


def _convert_all(bags: Sequence[Path], options: Options, workers: int) -> Iterator[Converted]:
    """Yield the results in the order of the bags, so that a dataset does not depend on the number of workers."""
    workers = min(workers, len(bags) // BAGS_A_WORKER)
    if workers <= 1:
        for bag in bags:
            yield convert_bag(bag, options)
        return
    # Spawned, not forked: ArrayRecord's threads in this process would crash forked workers.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        pending: deque[Future[Converted]] = deque()
        try:
            for bag in bags:
                pending.append(pool.submit(convert_bag, bag, options))
                # A window keeps memory small when writing is the slower side.
                if len(pending) >= 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
