"""Convert bags to an RLDS dataset: many bags over processes, and the loop that collects their results."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from openvla_training.bags.convert_bag import Converted, Options, convert_bag
from openvla_training.bags.episode_cuts import digest
from openvla_training.bags.episodes import BadBag
from openvla_training.rlds.statistics import write_statistics
from openvla_training.rlds.writer import DatasetWriter, open_writer

# Starting a process costs as much as converting some fifty small bags, or this many bytes of large ones.
BAGS_A_WORKER = 50
BYTES_A_WORKER = 200 * 2**20


@dataclass
class Summary:
    """Counts over a whole run; `bad` maps a bag, and `bad_episodes` and `dropped` an episode, to the reason."""

    folder: Path
    episodes: int = 0
    steps: int = 0
    already: int = 0
    dropped: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    bad: dict[str, str] = field(default_factory=dict)
    bad_episodes: dict[str, str] = field(default_factory=dict)
    recorded_seconds: float = 0.0
    work: dict[str, float] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)


def convert(
    bags: Sequence[Path],
    output: Path,
    name: str,
    options: Options,
    *,
    workers: int = 1,
    strict: bool = False,
    val_fraction: float = 0.05,
    file_format: str = "array_record",
    progress: Callable[[Converted], None] | None = None,
) -> Summary:
    """Convert the bags that are not in the dataset yet, in order, and update its statistics.

    Args:
        bags: The bags.
        output: Folder of datasets.
        name: Name of the dataset.
        options: How episodes are made.
        workers: Largest number of processes.
        strict: Whether to stop at the first bad bag or episode.
        val_fraction: Share of episodes for the val split.
        file_format: Format of the shards.
        progress: Called with the result of each bag, in order.

    Returns:
        Counts over the whole run.

    Raises:
        BadBag: With `strict`, a bag or an episode is bad; what was converted before it stays.
        ValueError: The dataset exists with other settings.
    """
    with open_writer(
        output, name, settings=settings_of(options), val_fraction=val_fraction, file_format=file_format
    ) as writer:
        summary = Summary(writer.folder)
        todo = [bag for bag in bags if not _known(writer, bag, options)]
        summary.already = len(bags) - len(todo)
        writer.bad = {bag: reason for bag, reason in writer.bad.items() if bag not in set(map(str, todo))}
        for result in _convert_all(todo, options, workers):
            result = _collect(writer, result, options, summary)
            if progress:
                progress(result)
            if strict and (reason := result.bad or next(iter(result.bad_episodes.values()), None)):
                writer.commit()
                raise BadBag(f"{result.bag}: {reason} (--strict)")
    if writer.shards:
        write_statistics(writer.folder)
    for shard in writer.shards:
        summary.splits[shard.split] = summary.splits.get(shard.split, 0) + len(shard.episodes)
    return summary


def settings_of(options: Options) -> dict[str, Any]:
    """Return the options as the manifest holds them; lists of times may grow and are kept with each bag instead."""
    topics = options.topics
    names = {"image": topics.image, "ee_pose": topics.ee_pose, "gripper": topics.gripper}
    return {
        **asdict(options.steps),
        "keep_failed": options.keep_failed,
        "image_size": options.image_size,
        "image_encoding": options.image_encoding,
        "topics": names | dict(topics.cameras),
        "cut": options.cut if options.times is None else "times",
    }


def _known(writer: DatasetWriter, bag: Path, options: Options) -> bool:
    entry = writer.sources.get(str(bag))
    return entry is not None and entry.get("times") == _digest(bag, options)


def _digest(bag: Path, options: Options) -> str | None:
    lines = options.lines(bag)
    return None if lines is None else digest(lines)


def _collect(writer: DatasetWriter, result: Converted, options: Options, summary: Summary) -> Converted:
    """Add one bag's episodes to the dataset; returns the result, which is bad if its images do not fit the dataset.

    A bad bag is not recorded as converted, so that the next run tries it again.
    """
    if not result.bad and result.image_shapes and (incompatibility := writer.incompatibility(result.image_shapes)):
        result = Converted(result.bag, bad=incompatibility)
    if result.bad:
        summary.bad[str(result.bag)] = writer.bad[str(result.bag)] = result.bad
        return result
    before = writer.sources.get(str(result.bag), {})  # the same bag with fewer lines of a list of times
    dropped = dict(result.dropped)
    kept = []
    seen: set[str] = set()
    for episode in result.episodes:
        if episode.episode_id in before.get("episodes", ()):
            continue
        if episode.episode_id in writer.episode_ids or episode.content_hash in writer.content.keys() | seen:
            dropped[episode.episode_id] = "duplicate"
        else:
            seen.add(episode.content_hash)
            kept.append(episode)
    entry = {
        "episodes": [*before.get("episodes", ()), *(episode.episode_id for episode in kept)],
        "dropped": dropped,
        "bad": result.bad_episodes,
        "quality": before.get("quality", {}) | {e.episode_id: result.quality[e.episode_id] for e in kept},
        "seconds": result.seconds,
    }
    if (lines := _digest(result.bag, options)) is not None:
        entry["times"] = lines
    writer.add_source(str(result.bag), entry, kept, result.image_shapes)
    summary.episodes += len(kept)
    summary.steps += sum(len(episode.images) for episode in kept)
    summary.dropped |= dropped
    summary.bad_episodes |= result.bad_episodes
    for total, part in ((summary.left_out, result.left_out), (summary.work, result.work)):
        for key, number in part.items():
            total[key] = total.get(key, 0) + number  # type: ignore[assignment]
    summary.recorded_seconds += result.seconds
    return replace(result, episodes=tuple(kept))


def _convert_all(bags: Sequence[Path], options: Options, workers: int) -> Iterator[Converted]:
    """Yield the results in the order of the bags, so that a dataset does not depend on the number of workers."""
    size = sum(file.stat().st_size for bag in bags for file in ([bag] if bag.is_file() else bag.iterdir()))
    workers = min(workers, len(bags), max(len(bags) // BAGS_A_WORKER, size // BYTES_A_WORKER))
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
