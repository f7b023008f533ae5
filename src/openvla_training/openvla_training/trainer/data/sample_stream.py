"""One dataset as an endless stream of shuffled samples, whose position is a few numbers.

Each epoch draws an order of the episodes. As many consecutive episodes as fit the memory budget form a block; they are
held encoded, and their steps are shuffled. A stream resumes exactly from (epoch, the block's first episode, samples
used), since a block depends on these and the seed alone. It holds at most one and a half blocks in memory.
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
_PREPARED = (
    256,
    256,
)  # images of this size went through the reference's preparation, which corrects their channel order


@dataclass(frozen=True, slots=True)
class Sample:
    """One step of an episode.

    Attributes:
        dataset: Name of its dataset.
        episode: Index of its episode.
        step: Index within the episode.
        image: Encoded image.
        bgr: Whether the image's channels are stored in the order BGR.
        actions: float32 (horizon, 7), normalised.
        instruction: The sentence.
    """

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
        """Open a dataset.

        Args:
            row: Its description.
            folder: Its RLDS folder.
            statistics: Normalise its actions.
            split: Split to read.
            horizon: Actions per sample: that of its step and of the following ones.
            wording: Which of several instructions to take: the first, or one at random.
        """
        cameras = [f"observation/{camera}" for camera in row.camera]
        wanted = sorted({*row.keys, *cameras, *row.language})
        self._source = EpisodeSource(folder, split, wanted, ["success"] if "success" in row.filters else [])
        self.row, self._statistics, self._cameras = row, statistics, cameras
        self._horizon, self._wording = horizon, wording
        self._has_samples = False
        self._bgr = row.bgr and self._source.image_shape(row.camera[0])[:2] != _PREPARED

    def __len__(self) -> int:
        return len(self._source)

    def check(self) -> None:
        """Make sure that some episode has a sample; a lane's part of one epoch alone may have none.

        Raises:
            ValueError: No episode has a sample.
        """
        self._has_samples = self._has_samples or any(self.read(i, np.random.default_rng(0)) for i in range(len(self)))
        if not self._has_samples:
            raise ValueError(
                f"dataset {self.row.name!r}: none of its {len(self)} episodes has a sample: they have no instruction, "
                "or a filter drops them; check `language` and `filters` of its row"
            )

    def read(self, episode: int, rng: np.random.Generator) -> list[Sample]:
        """Read the samples of an episode.

        Args:
            episode: Index of the episode.
            rng: Chooses its camera and instruction where it has several.

        Returns:
            The samples; none if a filter drops the episode or it has no instruction.
        """
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
    samples: list[Sample]  # reversed: the next one is last, so that pop() frees it
    size: int  # number of samples of the whole block
    following: tuple[int, int]  # epoch and first episode of the next block
    empty_epoch: bool  # the lane has no sample in this whole epoch


class Stream:
    """The samples of one lane. A batch is divided among a fixed number of lanes, which share no sample of an epoch."""

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
        """Start or resume a stream.

        Args:
            reader: The dataset.
            seed: Determines the order of the samples.
            lane: Index of this lane.
            lanes: Number of lanes.
            budget: Size of a block in encoded images [bytes]; a block has at least one episode.
            executor: Reads the next block in the background; None: it is read when it is needed.
            state: Position to resume from: the `state` of an earlier stream.
        """
        self._reader, self._seed, self._lane, self._lanes = reader, seed, lane, lanes
        self._budget, self._executor = budget, executor
        self._key = zlib.crc32(reader.row.name.encode())
        # With too few episodes to divide among the lanes, each lane reads all of them and takes its share of the steps.
        self._by_step = len(reader) < 4 * lanes
        self._ahead: Future[_Block] | None = None
        self._block: _Block | None = None
        self._state = dict(state) if state else {"epoch": 0, "start": 0, "used": 0}

    @property
    def state(self) -> dict[str, int]:
        """The position of the next sample, from which a new stream can resume."""
        block = self._block
        if block is None:
            return dict(self._state)
        return {"epoch": block.epoch, "start": block.start, "used": block.size - len(block.samples)}

    @property
    def held_bytes(self) -> int:
        """Size of the encoded images of the current block [bytes]."""
        return sum(len(sample.image) for sample in self._block.samples) if self._block else 0

    def release(self) -> None:
        """Free the current block; the next draw reads it again."""
        if self._block is not None:
            self._state, self._block, self._ahead = self.state, None, None

    def draw(self) -> Sample:
        """The next sample."""
        if self._block is None:
            self._block = self._build(self._state["epoch"], self._state["start"])
            used = self._state["used"]
            if used:
                del self._block.samples[-used:]
        while not self._block.samples:
            if self._block.empty_epoch:
                self._reader.check()
            self._block = self._ahead.result() if self._ahead else self._build(*self._block.following)
            self._ahead = None
        sample = self._block.samples.pop()
        if self._executor and self._ahead is None and len(self._block.samples) <= self._block.size // 2:
            self._ahead = self._executor.submit(self._build, *self._block.following)
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
