"""One dataset as an endless stream of shuffled samples, a few numbers saying where it is.

Episodes come in an order drawn anew each epoch; as many of them as fit the budget are held at once, still encoded, and
their steps come shuffled: a block. A stream goes on exactly from (epoch, the block's first episode, steps used), since
a block depends on these and the seed alone; memory stays at one and a half blocks.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from openvla_policy.contract.statistics import Statistics
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.source import EpisodeSource
from openvla_training.openx.standardise import ABSOLUTE, chunks, is_moving, sentences, standardise

Wording = Literal["first", "any"]
_PREPARED = (256, 256)  # pictures of this size went through the reference's preparation, which mends their colours


@dataclass(frozen=True, slots=True)
class Sample:
    """One step: an encoded picture, `actions` float32 (horizon, 7) normalised, the sentence, and where it is from."""

    dataset: str
    episode: int
    step: int
    image: bytes
    bgr: bool
    actions: np.ndarray
    instruction: str


class EpisodeReader:
    """Standardised samples of a dataset's episodes; safe to share between streams."""

    def __init__(
        self,
        row: Dataset,
        folder: Path | str,
        statistics: Statistics,
        *,
        split: str = "train",
        horizon: int = 1,
        wording: Wording = "first",
    ) -> None:
        """`horizon`: actions a sample holds, its own and those after it. `wording`: which of several sentences."""
        cameras = [f"observation/{camera}" for camera in row.camera]
        wanted = sorted({*row.keys, *cameras, *row.language})
        self._source = EpisodeSource(folder, split, wanted, ["success"] if "success" in row.filters else [])
        self.row, self._statistics, self._cameras = row, statistics, cameras
        self._horizon, self._wording = horizon, wording
        self._speaks = False
        self._bgr = row.bgr and self._source.image_shape(row.camera[0])[:2] != _PREPARED

    def __len__(self) -> int:
        return len(self._source)

    def check(self) -> None:
        """Raise unless some episode gives a sample. (A lane's part of an epoch may be without one; each is dealt anew.)

        Raises:
            ValueError: none does.
        """
        self._speaks = self._speaks or any(self.read(i, np.random.default_rng(0)) for i in range(len(self)))
        if not self._speaks:
            raise ValueError(
                f"dataset {self.row.name!r}: none of its {len(self)} episodes gives a sample: they have no sentence, "
                "or its filters drop them; check its row"
            )

    def read(self, episode: int, rng: np.random.Generator) -> list[Sample]:
        """The samples of an episode; none where a filter drops it or it has no sentence. `rng`: for its choices."""
        row = self.row
        steps, flags = self._source[episode]
        camera = steps[self._cameras[int(rng.integers(len(self._cameras)))]]
        texts = sentences(row, steps, rng if self._wording == "any" else None)
        if not any(texts) or not flags.get("success", True):
            return []
        trajectory = standardise(row, {key: steps[key] for key in row.keys})
        if not len(trajectory.actions):
            return []
        actions = self._statistics.normalise(trajectory.actions)
        actions = chunks(actions, 0, self._horizon - 1, ABSOLUTE)
        flat = is_moving(actions.reshape(-1, actions.shape[-1]), self._statistics.action)
        moving = np.logical_or.reduce(flat.reshape(len(actions), self._horizon), axis=1)
        if "zero_actions" not in row.filters:
            moving[:] = True
        return [
            Sample(row.name, episode, int(step), bytes(camera[step]), self._bgr, actions[place], texts[step])
            for place, step in enumerate(trajectory.kept)
            if moving[place] and texts[step]
        ]


@dataclass
class _Block:
    epoch: int
    start: int
    samples: list[Sample]  # in reverse: the next one last, so that used ones are freed
    size: int  # before any was used
    following: tuple[int, int]
    mute: bool  # the lane's whole epoch has no sample


class Stream:
    """Lane `lane` of `lanes` of a dataset: the lanes of an epoch never share a step."""

    def __init__(
        self,
        reader: EpisodeReader,
        *,
        seed: int,
        lane: int,
        lanes: int,
        budget: int,
        executor: Executor | None = None,
        state: Mapping[str, int] | None = None,
    ) -> None:
        """`budget`: bytes of pictures a block takes, at least one episode. `executor`: reads the next block ahead."""
        self._reader, self._seed, self._lane, self._lanes = reader, seed, lane, lanes
        self._budget, self._executor = budget, executor
        self._key = zlib.crc32(reader.row.name.encode())
        # Datasets too small to deal out episode by episode are read by every lane, and dealt out step by step.
        self._by_step = len(reader) < 4 * lanes
        self._next: Future[_Block] | None = None
        self._block: _Block | None = None
        self._state = dict(state) if state else {"epoch": 0, "start": 0, "used": 0}

    @property
    def state(self) -> dict[str, int]:
        """Where the next sample is: give it to a new stream to go on from there."""
        block = self._block
        if block is None:
            return dict(self._state)
        return {"epoch": block.epoch, "start": block.start, "used": block.size - len(block.samples)}

    def release(self) -> None:
        """Free the pictures; the next draw reads them again."""
        if self._block is not None:
            self._state, self._block, self._next = self.state, None, None

    def draw(self) -> Sample:
        """The next sample."""
        if self._block is None:
            self._block = self._build(self._state["epoch"], self._state["start"])
            used = self._state["used"]
            if used:
                del self._block.samples[-used:]
        while not self._block.samples:
            if self._block.mute:
                self._reader.check()
            self._block = self._next.result() if self._next else self._build(*self._block.following)
            self._next = None
        sample = self._block.samples.pop()
        if self._executor and self._next is None and len(self._block.samples) <= self._block.size // 2:
            self._next = self._executor.submit(self._build, *self._block.following)
        return sample

    def _build(self, epoch: int, start: int) -> _Block:
        order = np.random.default_rng([self._seed, self._key, epoch]).permutation(len(self._reader))
        if not self._by_step:
            order = order[self._lane :: self._lanes]
        samples: list[Sample] = []
        held, place = 0, start
        while place < len(order) and (held < self._budget or not samples):
            episode = int(order[place])
            rng = np.random.default_rng([self._seed, self._key, epoch, episode])
            found = self._reader.read(episode, rng)
            held += sum(len(sample.image) for sample in found)
            samples += found
            place += 1
        shuffled = np.random.default_rng([self._seed, self._key, epoch, start, 1]).permutation(len(samples))
        if self._by_step:
            shuffled = shuffled[self._lane :: self._lanes]
        chosen = [samples[index] for index in shuffled[::-1]]
        following = (epoch, place) if place < len(order) else (epoch + 1, 0)
        return _Block(epoch, start, chosen, len(chosen), following, not samples and start == 0)
