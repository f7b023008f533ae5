"""Batches out of datasets too large for memory: a weighted mixture of streams, decoded, augmented, tokenised.

Samples do not depend on how many processes or threads there are: a step's batch is dealt out over a fixed number of
lanes, each lane draws its own samples, and a rank runs the lanes that fall to it. So a run may be stopped on two
processes and go on, sample for sample, on one.
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
from openvla_training.trainer.data.augment import Augment, Draw, augmented
from openvla_training.trainer.data.batch import Batch, collate_tokens
from openvla_training.trainer.data.sample_stream import EpisodeReader, Sample, Stream, Wording

_DRAWS = 4096  # choices of a dataset that are drawn at once
_LEAST = 1 << 20  # [bytes] of a block
_PROMPTS = 100_000  # sentences whose tokens are kept


@dataclass(frozen=True)
class LoaderConfig:
    """What determines the samples; a run goes on only with the same values."""

    batch_size: int = 16  # samples a step, over all processes
    seed: int = 0
    lanes: int = 1  # parts a step's batch is dealt out over; the number of processes must divide it
    steps: int = 200_000  # of the whole run, for mixtures that change on the way
    buffer_bytes: int = 1 << 30  # encoded pictures a lane shuffles among
    horizon: int = 1  # actions a sample holds
    wording: Wording = "first"  # of several sentences: the first, or any one drawn for each trajectory
    split: str = "train"

    def __post_init__(self) -> None:
        for name in ("batch_size", "lanes", "steps", "buffer_bytes", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be at least 1")
        if self.seed < 0:
            raise ValueError(f"seed: {self.seed} is not allowed; it must be at least 0")
        if self.batch_size % self.lanes:
            raise ValueError(f"batch_size: {self.batch_size} cannot be dealt out over {self.lanes} lanes evenly")


class Loader:
    """An endless iterator of a rank's batches; use it in a `with` block, or close it."""

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
        """Open the mixture's datasets under `data_dir`, measuring those not measured yet.

        What normalised the actions is in `statistics` afterwards, and belongs into the checkpoint; given as an argument
        (those of a checkpoint that is trained on), it is used instead of measuring.

        `workers`: decoding and augmenting threads, 0 to do all in the caller's; `ahead`: batches made in advance;
        `state`: what `state()` (of all ranks, merged by `merge_states`) gave, to go on from there.

        Raises:
            FileNotFoundError: none of the datasets is there, or one is missing. ValueError: what does not fit.
        """
        if config.lanes % world:
            raise ValueError(f"lanes: {config.lanes} cannot be run by {world} processes; choose a multiple of {world}")
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
        self._each = config.batch_size // config.lanes
        self._prompts: dict[str, np.ndarray] = {}
        self._reading = ThreadPoolExecutor(1, "openvla-read") if workers else None
        self._decoding = ThreadPoolExecutor(workers, "openvla-decode") if workers else None
        self._ahead, self._stop = ahead, threading.Event()
        self._made: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException] = queue.Queue(max(1, ahead))
        self._thread: threading.Thread | None = None
        self._restore(state)
        self._given = self._snapshot()

    # ---- iterating ------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The rank's part of the next step's batch."""
        if self._decoding is None:
            samples, after = self._draw()
            pictures = [self._picture(sample, draw) for sample, draw in self._draws(samples, self._step - 1)]
            batch = self._finish(pictures, samples)
        else:
            if self._thread is None:
                self._thread = threading.Thread(target=self._produce, name="openvla-loader", daemon=True)
                self._thread.start()
            made = self._made.get()
            if isinstance(made, BaseException):
                self._made.put(made)
                raise made
            batch, after = made
        self._given = after
        return batch

    def state(self) -> dict[str, Any]:
        """Where this rank is after the last batch it gave out, as plain numbers and words."""
        return {"settings": self._settings, **self._given}

    def close(self) -> None:
        """Stop the threads."""
        self._stop.set()
        while self._thread is not None and self._thread.is_alive():
            try:
                self._made.get_nowait()
            except queue.Empty:
                self._thread.join(0.05)
        for executor in (self._decoding, self._reading):
            if executor is not None:
                executor.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- drawing --------------------------------------------------------------------------------------------

    def shares(self, step: int) -> dict[str, float]:
        """How often each dataset is drawn in step `step`."""
        return self.mixture.shares(self._transitions, step / self.config.steps)

    def _draw(self) -> tuple[list[Sample], dict[str, Any]]:
        shares = self.shares(self._step)
        edges = np.cumsum([shares[name] for name in self._names])
        samples = []
        for lane in self._lanes:
            for place in range(self._step * self._each, (self._step + 1) * self._each):
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
        budget = max(_LEAST, int(share * self.config.buffer_bytes / 1.5))
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
                        f"the run that is to go on had {key} {then!r}, this one has {now!r}; use the same, or start "
                        "anew"
                    )
            missing = [lane for lane in self._lanes if str(lane) not in state["lanes"]]
            if missing:
                raise ValueError(f"the state lacks lane {missing[0]}; merge the states of all ranks first")
        self._step = state["step"] if state else 0
        self._streams = {
            (lane, name): self._stream(lane, name, state["lanes"][str(lane)].get(name) if state else None)
            for lane in self._lanes
            for name in self._names
        }

    # ---- making ---------------------------------------------------------------------------------------------

    def _produce(self) -> None:
        pending: deque[tuple[list[Future[np.ndarray]], list[Sample], dict[str, Any]]] = deque()
        assert self._decoding is not None
        try:
            while not self._stop.is_set():
                samples, after = self._draw()
                each = self._draws(samples, self._step - 1)
                pictures = [self._decoding.submit(self._picture, sample, draw) for sample, draw in each]
                pending.append((pictures, samples, after))
                if len(pending) > 1:
                    futures, drawn, state = pending.popleft()
                    self._put((self._finish([future.result() for future in futures], drawn), state))
        except BaseException as error:
            self._put(error)

    def _put(self, made: tuple[Batch, dict[str, Any]] | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._made.put(made, timeout=0.1)
                return
            except queue.Full:
                continue

    def _draws(self, samples: Sequence[Sample], step: int) -> list[tuple[Sample, Draw | None]]:
        """Each sample with its augmentation, which depends on the seed, the lane and the step alone."""
        if self._augment is None:
            return [(sample, None) for sample in samples]
        draws: list[Draw] = []
        for lane in self._lanes:
            seed = int(np.random.SeedSequence([self.config.seed, lane, step]).generate_state(1, np.uint64)[0] >> 1)
            draws += Augment(self._augment, torch.Generator().manual_seed(seed)).draw(self._each)
        return list(zip(samples, draws, strict=True))

    def _picture(self, sample: Sample, draw: Draw | None) -> np.ndarray:
        try:
            image = decode_image(sample.image)
        except ValueError as error:
            raise ValueError(f"{sample.dataset}, episode {sample.episode}, step {sample.step}: {error}") from None
        image = self._checkpoint.preparation.resize(image[..., ::-1] if sample.bgr else image)
        return image if draw is None else augmented(image, draw)

    def _finish(self, pictures: Sequence[np.ndarray], samples: Sequence[Sample]) -> Batch:
        images = torch.from_numpy(np.stack(pictures))
        actions = np.stack([sample.actions for sample in samples])
        checkpoint = self._checkpoint
        ids, labels, mask = collate_tokens(
            [self._prompt(sample.instruction) for sample in samples],
            checkpoint.action_tokenizer.encode(actions[:, 0]),
            checkpoint.tokenizer.eos_id,
            checkpoint.config.pad_token_id,
        )
        origins = tuple((sample.dataset, sample.episode, sample.step) for sample in samples)
        return Batch(ids, labels, mask, images, torch.from_numpy(actions), origins)

    def _prompt(self, instruction: str) -> np.ndarray:
        if instruction not in self._prompts:
            if len(self._prompts) >= _PROMPTS:
                self._prompts.clear()
            tokens = self._checkpoint.tokenizer.encode_prompt(build_prompt(instruction))
            self._prompts[instruction] = np.array(tokens)
        return self._prompts[instruction]


def merge_states(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The states of all ranks as one, which any number of processes can go on from."""
    if len({state["step"] for state in states}) != 1:
        raise ValueError(f"the ranks' states are of steps {sorted({state['step'] for state in states})}, not of one")
    lanes = {lane: streams for state in states for lane, streams in state["lanes"].items()}
    return {"settings": states[0]["settings"], "step": states[0]["step"], "lanes": lanes}
