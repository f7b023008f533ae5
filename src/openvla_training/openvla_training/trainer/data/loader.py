"""Batches from datasets too large for memory: a weighted mixture of streams, decoded, augmented, tokenised.

Samples do not depend on the number of processes or threads: a step's batch is divided among a fixed number of lanes,
each lane draws its own samples, and each rank runs its share of the lanes. So a run can be stopped on two processes and
resumed on one, sample for sample.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import Statistics
from openvla_training.openx.mixture import Mixture
from openvla_training.openx.source import dataset_folder
from openvla_training.openx.statistics import dataset_statistics
from openvla_training.rlds.images import decode_image
from openvla_training.trainer.config import AugmentConfig
from openvla_training.trainer.data.augment import Augment, Augmentation, augment_image
from openvla_training.trainer.data.batch import Batch, collate_tokens
from openvla_training.trainer.data.sample_stream import EpisodeReader, Sample, Stream, Wording

_DRAWS = 4096  # random numbers generated at once, each choosing the dataset of a sample
_MIN_BLOCK = 1 << 20  # [bytes]
_MAX_PROMPTS = 100_000  # instructions whose tokens are cached


@dataclass(frozen=True)
class LoaderConfig:
    """What determines the samples; a run resumes only with the same values."""

    batch_size: int = 16
    """Samples of a step, over all processes."""
    seed: int = 0
    """Seed of sample order and augmentation."""
    lanes: int = 1
    """Independent sample streams of a batch; the number of processes must divide it."""
    steps: int = 200_000
    """Length of the whole run, for mixtures whose weights change during it [steps]."""
    buffer_bytes: int = 1 << 30
    """Shuffle buffer of a lane, in encoded images [bytes]."""
    horizon: int = 1
    """Actions per sample."""
    wording: Wording = "first"
    """Which of several instructions of an episode: the first, or one drawn each time."""
    split: str = "train"
    """Split of the datasets."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "lanes", "steps", "buffer_bytes", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is not allowed; it must be at least 0")
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size: {self.batch_size} is not a multiple of the {self.lanes} lanes")


class Loader:
    """An endless iterator over a rank's batches; use it in a `with` block, or close it.

    Attributes:
        statistics: Normalised the actions, by dataset; belongs into the trained checkpoint.
    """

    def __init__(
        self,
        mixture: Mixture,
        data_dir: Path | str,
        checkpoint: Checkpoint,
        config: LoaderConfig,
        *,
        augment: AugmentConfig | None = None,
        rank: int = 0,
        world: int = 1,
        workers: int = 2,
        ahead: int = 2,
        statistics: Mapping[str, Statistics] | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the mixture's datasets.

        Args:
            mixture: The datasets and their weights.
            data_dir: Folder that holds the datasets.
            checkpoint: Its tokenizer and image preparation make the batches.
            config: What determines the samples.
            augment: Image augmentation; None: none.
            rank: Index of this process.
            world: Number of processes.
            workers: Threads that decode and augment; 0: everything happens in the caller's thread.
            ahead: Batches to prepare in advance.
            statistics: Statistics to use instead of measuring a dataset, by its name.
            state: Position to resume from: the merged `state()` of all ranks.

        Raises:
            FileNotFoundError: A dataset is missing.
            ValueError: The lanes cannot be divided among the processes, or `state` belongs to other settings.
        """
        if config.lanes % world:
            raise ValueError(
                f"data.lanes: {config.lanes} cannot be divided among {world} processes; choose a multiple of {world}"
            )
        self.mixture, self.config, self._checkpoint, self._augment = mixture, config, checkpoint, augment
        self.statistics: dict[str, Statistics] = {}
        self._readers: dict[str, EpisodeReader] = {}
        for name in mixture.datasets:
            row = mixture.row(name)
            folder = dataset_folder(data_dir, name, row.folder)
            known = (statistics or {}).get(name)
            self.statistics[name] = dataset_statistics(row, folder) if known is None else known
            self._readers[name] = EpisodeReader(
                row, folder, self.statistics[name], split=config.split, horizon=config.horizon, wording=config.wording
            )
        self._names = list(self._readers)
        self._transitions = {name: statistics.num_transitions for name, statistics in self.statistics.items()}
        self._settings = {
            **vars(config),
            "mixture": dict(mixture.datasets),
            "by": mixture.by,
            "until": dict(mixture.until),
            "transitions": self._transitions,
        }
        self._lanes = list(range(rank, config.lanes, world))
        self._per_lane = config.batch_size // config.lanes
        self._prompts: dict[str, np.ndarray] = {}
        self._reading = ThreadPoolExecutor(1, "openvla-read") if workers else None
        self._decoding = ThreadPoolExecutor(workers, "openvla-decode") if workers else None
        self._ahead, self._stop = ahead, threading.Event()
        self._ready: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue(max(1, ahead))
        self._thread: threading.Thread | None = None
        self._restore(state)
        self._position = self._snapshot()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """This rank's part of the next step's batch."""
        if self._decoding is None:
            samples, after = self._draw()
            images = [
                self._image(sample, augmentation) for sample, augmentation in self._draws(samples, self._step - 1)
            ]
            batch = self._finish(images, samples)
        else:
            if self._thread is None:
                self._thread = threading.Thread(target=self._produce, name="openvla-loader", daemon=True)
                self._thread.start()
            ready = self._ready.get()
            if isinstance(ready, BaseException):
                self._ready.put(ready)
                raise ready
            batch, after = ready
        self._position = after
        return batch

    def state(self) -> dict[str, Any]:
        """The position of this rank after the last batch it returned, ready for JSON."""
        return {"settings": self._settings, **self._position}

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._ready.get_nowait()
            except queue.Empty:
                self._thread.join(0.05)
        for executor in (self._decoding, self._reading):
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def shares(self, step: int) -> dict[str, float]:
        """The probability of each dataset in step `step`."""
        return self.mixture.shares(self._transitions, step / self.config.steps)

    def _draw(self) -> tuple[list[Sample], dict[str, Any]]:
        shares = self.shares(self._step)
        edges = np.cumsum([shares[name] for name in self._names])
        samples = []
        for lane in self._lanes:
            for place in range(self._step * self._per_lane, (self._step + 1) * self._per_lane):
                name = self._names[int(np.searchsorted(edges, self._chance(lane, place) * edges[-1], side="right"))]
                samples.append(self._streams[lane, name].draw())
        for name, share in shares.items():
            if not share:
                for lane in self._lanes:
                    self._streams[lane, name].release()
        self._step += 1
        return samples, self._snapshot()

    def _chance(self, lane: int, place: int) -> float:
        chunk, index = divmod(place, _DRAWS)
        if self._chances.get(lane, (-1,))[0] != chunk:
            self._chances[lane] = (chunk, np.random.default_rng([self.config.seed, lane, chunk]).random(_DRAWS))
        return float(self._chances[lane][1][index])

    def _stream(self, lane: int, name: str, state: Mapping[str, int] | None) -> Stream:
        share = self.shares(0)[name]
        budget = max(_MIN_BLOCK, int(share * self.config.buffer_bytes / 1.5))
        reader, config = self._readers[name], self.config
        return Stream(
            reader,
            seed=config.seed,
            lane=lane,
            lanes=config.lanes,
            budget=budget,
            executor=self._reading,
            state=state,
        )

    def _snapshot(self) -> dict[str, Any]:
        lanes = {str(lane): {name: self._streams[lane, name].state for name in self._names} for lane in self._lanes}
        return {"step": self._step, "lanes": lanes}

    def _restore(self, state: Mapping[str, Any] | None) -> None:
        self._chances: dict[int, tuple[int, np.ndarray]] = {}
        if state is not None:
            for key in self._settings.keys() | state["settings"].keys():
                then, now = state["settings"].get(key), self._settings.get(key)
                if then != now:
                    raise ValueError(
                        f"the saved run has {key} {then!r}, this one {now!r}; use the same value, or another output "
                        "folder"
                    )
            missing = [lane for lane in self._lanes if str(lane) not in state["lanes"]]
            if missing:
                raise ValueError(f"the state has no lane {missing[0]}; merge the states of all ranks first")
        self._step = state["step"] if state else 0
        self._streams = {
            (lane, name): self._stream(lane, name, state["lanes"][str(lane)].get(name) if state else None)
            for lane in self._lanes
            for name in self._names
        }

    def _produce(self) -> None:
        pending: deque[tuple[list[Future[np.ndarray]], list[Sample], dict[str, Any]]] = deque()
        assert self._decoding is not None
        try:
            while not self._stop.is_set():
                samples, after = self._draw()
                each = self._draws(samples, self._step - 1)
                images = [self._decoding.submit(self._image, sample, augmentation) for sample, augmentation in each]
                pending.append((images, samples, after))
                if len(pending) > 1:
                    futures, drawn, state = pending.popleft()
                    self._put((self._finish([future.result() for future in futures], drawn), state))
        except BaseException as error:
            self._put(error)

    def _put(self, ready: tuple[Batch, dict[str, Any]] | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(ready, timeout=0.1)
                return
            except queue.Full:
                continue

    def _draws(self, samples: Sequence[Sample], step: int) -> list[tuple[Sample, Augmentation | None]]:
        """Each sample with its augmentation, which depends only on the seed, the lane and the step."""
        if self._augment is None:
            return [(sample, None) for sample in samples]
        draws: list[Augmentation] = []
        for lane in self._lanes:
            seed = int(np.random.SeedSequence([self.config.seed, lane, step]).generate_state(1, np.uint64)[0] >> 1)
            draws += Augment(self._augment, torch.Generator().manual_seed(seed)).draw(self._per_lane)
        return list(zip(samples, draws, strict=True))

    def _image(self, sample: Sample, augmentation: Augmentation | None) -> np.ndarray:
        try:
            image = decode_image(sample.image)
        except ValueError as error:
            raise ValueError(f"{sample.dataset}, episode {sample.episode}, step {sample.step}: {error}") from None
        image = self._checkpoint.preparation.resize(image[..., ::-1] if sample.bgr else image)
        return image if augmentation is None else augment_image(image, augmentation)

    def _finish(self, images: Sequence[np.ndarray], samples: Sequence[Sample]) -> Batch:
        actions = np.stack([sample.actions for sample in samples])
        checkpoint = self._checkpoint
        ids, labels, mask = collate_tokens(
            [self._prompt(sample.instruction) for sample in samples],
            checkpoint.action_tokenizer.encode(actions[:, 0]),
            checkpoint.tokenizer.eos_id,
            checkpoint.config.pad_token_id,
        )
        origins = tuple((sample.dataset, sample.episode, sample.step) for sample in samples)
        return Batch(ids, labels, mask, torch.from_numpy(np.stack(images)), torch.from_numpy(actions), origins)

    def _prompt(self, instruction: str) -> np.ndarray:
        if instruction not in self._prompts:
            if len(self._prompts) >= _MAX_PROMPTS:
                self._prompts.clear()
            tokens = self._checkpoint.tokenizer.encode_prompt(build_prompt(instruction))
            self._prompts[instruction] = np.array(tokens)
        return self._prompts[instruction]


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge the states of all ranks into one, from which any number of processes can resume."""
    if len({state["step"] for state in states}) != 1:
        raise ValueError(f"the ranks' states are of different steps: {sorted({state['step'] for state in states})}")
    lanes = {lane: streams for state in states for lane, streams in state["lanes"].items()}
    return {"settings": states[0]["settings"], "step": states[0]["step"], "lanes": lanes}
