"""RLDS datasets flattened to arrays on disk: every frame once, already resized, for access in random order.

Reading one random step of an RLDS record decodes its whole episode (~200 samples/s per core); the flat file gives any
step at the price of a copy. Images are memory-mapped, so the page cache bounds their memory.
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

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from openvla_policy.contract.image import ImagePreparation
from openvla_training.rlds.reader import count_episodes, find_dataset, read_episodes

log = logging.getLogger(__name__)
FORMAT = 1


class ImageRows:
    """Rows of one or more memory-mapped image arrays, read when they are indexed."""

    def __init__(self, arrays: Sequence[NDArray[np.uint8]], index: NDArray[np.int64] | None = None) -> None:
        """Select the rows `index` of the concatenation of `arrays`, each (N, H, W, 3); None: all rows."""
        self._arrays = tuple(arrays)
        self._starts = np.cumsum([0, *(len(array) for array in arrays)])
        self._index = np.arange(self._starts[-1]) if index is None else index

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, rows: int | NDArray[np.int64]) -> NDArray[np.uint8]:
        """The image (H, W, 3) of a row, or the images (B, H, W, 3) of an array of rows."""
        chosen = np.atleast_1d(self._index[rows])
        images = np.empty((len(chosen), *self._arrays[0].shape[1:]), np.uint8)
        for array, start in zip(self._arrays, self._starts, strict=False):
            here = (chosen >= start) & (chosen < start + len(array))
            images[here] = array[chosen[here] - start]
        return images if np.ndim(rows) else images[0]

    def subset(self, rows: NDArray[np.int64]) -> ImageRows:
        """Part of these rows."""
        return ImageRows(self._arrays, self._index[rows])


@dataclass(frozen=True)
class Frames:
    """All steps of a split, in episode order.

    Attributes:
        images: uint8 (N, H, W, 3), resized as the image preparation does it.
        actions: float32 (N, 7), in dataset units.
        instruction: Index (N,) into `instructions`.
        episode: Episode number (N,).
        instructions: The distinct sentences.
    """

    images: ImageRows
    actions: NDArray[np.float32]
    instruction: NDArray[np.int64]
    episode: NDArray[np.int64]
    instructions: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actions)

    def trajectories(self) -> list[NDArray[np.float32]]:
        """The actions of each episode, (T, 7)."""
        return np.split(self.actions, np.flatnonzero(np.diff(self.episode)) + 1)

    def subset(self, sentences: str | None = None, episodes: int = 0) -> Frames:
        """The frames of some episodes.

        Args:
            sentences: Regular expression that the instruction contains a match of; None: any instruction.
            episodes: Number of matching episodes to keep, from the first; 0: all.

        Returns:
            The frames of these episodes.

        Raises:
            ValueError: No instruction matches.
        """
        if sentences is None and not episodes:
            return self
        wanted = np.array([sentences is None or re.search(sentences, text) is not None for text in self.instructions])
        matches = wanted[self.instruction]
        if not matches.any():
            examples = "; ".join(self.instructions[:5])
            raise ValueError(
                f"data.sentences: {sentences!r} matches none of the instructions of the dataset, such as: {examples}"
            )
        if episodes:
            matches &= np.isin(self.episode, np.unique(self.episode[matches])[:episodes])
        rows = np.flatnonzero(matches)
        return replace(
            self,
            images=self.images.subset(rows),
            actions=self.actions[rows],
            instruction=self.instruction[rows],
            episode=self.episode[rows],
        )


def load_frames(datasets: Sequence[str], split: str, preparation: ImagePreparation, cache: Path) -> Frames:
    """Flatten a split of several RLDS datasets into `cache`, or map what an earlier call left there of the same."""
    parts = [_load_one(dataset, split, preparation, cache) for dataset in datasets]
    instructions = sorted({text for _, part in parts for text in part.instructions})
    index = {text: number for number, text in enumerate(instructions)}
    episodes = np.cumsum([0, *(int(part.episode[-1]) + 1 if len(part) else 0 for _, part in parts)])
    return Frames(
        images=ImageRows([images for images, _ in parts]),
        actions=np.concatenate([part.actions for _, part in parts]),
        instruction=np.concatenate(
            [np.array([index[text] for text in part.instructions], int)[part.instruction] for _, part in parts]
        ),
        episode=np.concatenate([part.episode + start for (_, part), start in zip(parts, episodes[:-1], strict=True)]),
        instructions=tuple(instructions),
    )


def _load_one(dataset: str, split: str, preparation: ImagePreparation, cache: Path) -> tuple[NDArray[np.uint8], Frames]:
    folder = find_dataset(dataset)
    place = cache / _fingerprint(folder, split, preparation)
    if not (place / "done.json").exists():
        _flatten(folder, split, preparation, place)
    contents = json.loads((place / "done.json").read_text("utf-8"))
    images = np.load(place / "images.npy", mmap_mode="r")
    return images, Frames(
        images=ImageRows([images]),
        actions=np.load(place / "actions.npy"),
        instruction=np.load(place / "instruction.npy"),
        episode=np.load(place / "episode.npy"),
        instructions=tuple(contents["instructions"]),
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
    """Name of the cache, which changes with the data (file names, sizes, times) and the geometry of the resize."""
    shards = sorted((p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in folder.iterdir() if p.is_file())
    geometry = (preparation.size, preparation.strategy, preparation.resample, preparation.letterbox_fill)
    text = json.dumps([FORMAT, str(folder.resolve()), split, shards, geometry, preparation.crop_area])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
