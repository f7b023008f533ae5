"""Part of the demonstrations: those of some sentences, or the first so many."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from openvla_training.trainer.frames import Frames


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
