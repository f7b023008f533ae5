"""Demonstrations as flat arrays on disk: every frame once, already resized, ready to be sampled at random.

A random step out of an RLDS record costs the decoding of its whole episode (~200 samples/s a core); the flat
file gives any step at the price of a copy. Frames are memory-mapped, so memory stays bounded by the page cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from openvla_policy.contract.image import ImagePreparation
from openvla_training.rlds.reader import count_episodes, find_dataset, read_episodes

log = logging.getLogger(__name__)
FORMAT = 1


@dataclass(frozen=True)
class Frames:
    """All steps of a split, in episode order.

    `images` uint8 (N, H, W, 3), as the preparation's resize gives them; `actions` float32 (N, 7) in dataset
    units; `instruction` (N,) indexes `instructions`; `episode` (N,) counts episodes.
    """

    images: NDArray[np.uint8]
    actions: NDArray[np.float32]
    instruction: NDArray[np.int64]
    episode: NDArray[np.int64]
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actions)

    def trajectories(self) -> list[NDArray[np.float32]]:
        """The actions, one array (T, 7) an episode."""
        return np.split(self.actions, np.flatnonzero(np.diff(self.episode)) + 1)


def load_frames(datasets: Sequence[str], split: str, preparation: ImagePreparation, cache: Path) -> Frames:
    """Flatten a split of several RLDS datasets, once: a second call with the same content maps the files."""
    parts = [_load_one(dataset, split, preparation, cache) for dataset in datasets]
    instructions = sorted({text for part in parts for text in part.instructions})
    index = {text: number for number, text in enumerate(instructions)}
    episodes = np.cumsum([0, *(int(part.episode[-1]) + 1 if len(part) else 0 for part in parts)])
    return Frames(
        images=parts[0].images if len(parts) == 1 else np.concatenate([part.images for part in parts]),
        actions=np.concatenate([part.actions for part in parts]),
        instruction=np.concatenate(
            [np.array([index[text] for text in part.instructions], int)[part.instruction] for part in parts]
        ),
        episode=np.concatenate([part.episode + start for part, start in zip(parts, episodes[:-1], strict=True)]),
        instructions=tuple(instructions),
    )


def _load_one(dataset: str, split: str, preparation: ImagePreparation, cache: Path) -> Frames:
    folder = find_dataset(dataset)
    place = cache / _fingerprint(folder, split, preparation)
    if not (place / "done.json").exists():
        _flatten(folder, split, preparation, place)
    facts = json.loads((place / "done.json").read_text("utf-8"))
    return Frames(
        images=np.load(place / "images.npy", mmap_mode="r"),
        actions=np.load(place / "actions.npy"),
        instruction=np.load(place / "instruction.npy"),
        episode=np.load(place / "episode.npy"),
        instructions=tuple(facts["instructions"]),
    )


def _flatten(folder: Path, split: str, preparation: ImagePreparation, place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    counts = count_episodes(folder)
    if split not in counts:
        raise ValueError(f"dataset {folder} has no split {split!r}; it has {', '.join(counts) or 'none'}")
    actions: list[NDArray[np.float32]] = []
    instruction: list[int] = []
    episode: list[int] = []
    known: dict[str, int] = {}
    height, width = preparation.size
    raw = place / "images.raw"
    with raw.open("wb") as file:
        episodes = read_episodes(folder, split=split)
        for number, one in enumerate(track(episodes, f"reading {folder.parent.name} {split}", counts[split])):
            for image in one.images:
                file.write(preparation.resize(np.asarray(image)).tobytes())
            actions.append(np.asarray(one.actions, np.float32))
            instruction += [known.setdefault(one.instruction, len(known))] * len(one.actions)
            episode += [number] * len(one.actions)
    if not actions:
        raise ValueError(f"dataset {folder} has no episodes in split {split!r}")
    flat = np.memmap(raw, np.uint8, "r", shape=(len(episode), height, width, 3))
    np.save(place / "images.npy", flat)
    raw.unlink()
    np.save(place / "actions.npy", np.concatenate(actions))
    np.save(place / "instruction.npy", np.array(instruction, np.int64))
    np.save(place / "episode.npy", np.array(episode, np.int64))
    done = place / "done.tmp"
    done.write_text(json.dumps({"instructions": list(known), "dataset": str(folder), "split": split}), "utf-8")
    os.replace(done, place / "done.json")
    log.info("%d steps of %d episodes from %s", len(episode), len(actions), folder)


def _fingerprint(folder: Path, split: str, preparation: ImagePreparation) -> str:
    """Changes with the data (file names, sizes, times) and with the geometry of the resize."""
    shards = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    geometry = (preparation.size, preparation.strategy, preparation.resample, preparation.letterbox_fill)
    text = json.dumps([FORMAT, str(folder.resolve()), split, shards, geometry, preparation.crop_area])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Picked:
    """Rows of an array on disk, read when they are asked for."""

    def __init__(self, rows: Any, index: NDArray[np.int64]) -> None:
        self._rows, self._index = rows, index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, key: Any) -> Any:
        return self._rows[self._index[key]]


def choose(frames: Frames, sentences: str | None, episodes: int = 0) -> Frames:
    """Frames of the first `episodes` (0: all) whose sentence has the regular expression `sentences` (None: any).

    Raises:
        ValueError: no sentence has it.
    """
    if sentences is None and not episodes:
        return frames
    wanted = np.array([sentences is None or re.search(sentences, text) is not None for text in frames.instructions])
    fits = wanted[frames.instruction]
    if not fits.any():
        known = "; ".join(frames.instructions[:5])
        raise ValueError(f"sentences: {sentences!r} is in none of the sentences there are, such as: {known}")
    numbers = np.unique(frames.episode[fits])
    if episodes:
        fits &= np.isin(frames.episode, numbers[:episodes])
    index = np.flatnonzero(fits)
    return replace(
        frames,
        images=cast(Any, Picked(frames.images, index)),
        actions=frames.actions[index],
        instruction=frames.instruction[index],
        episode=frames.episode[index],
    )
