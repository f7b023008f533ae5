"""The policy that runs in this process: observation and instruction in, action chunk out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.action import ACTION_DIM, ActionChunk, is_all_zero
from openvla_policy.contract.gripper import Option as GripperOption, check_option, convert_actions
from openvla_policy.contract.image import EVALUATION_CROP_AREA
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.prompt import PromptStyle, build_prompt
from openvla_policy.contract.statistics import Statistics, choose
from openvla_policy.runtime.decoding import Head, Runtime, Vocabulary
from openvla_policy.runtime.eager import EagerRuntime
from openvla_policy.runtime.memory import MemoryUse, measure
from openvla_policy.runtime.precision import Precision as Precision
from openvla_policy.runtime.runtimes import RuntimeName as RuntimeName, make_runtime
from openvla_policy.runtime.speculative import LastAnswers

Idle = Literal["keep", "requery"]


@dataclass(frozen=True)
class Answers:
    """What the network answers to a batch of B observations, as chunks of K actions.

    Attributes:
        token_ids: (B, K, 7) action tokens; None where the network regresses numbers.
        normalised: (B, K, 7) numbers in [-1, 1].
        timings: Seconds by stage.
        accepted: Guessed tokens of each row that were confirmed; empty where nothing was guessed.
    """

    token_ids: np.ndarray | None
    normalised: np.ndarray
    timings: dict[str, float]
    accepted: tuple[int, ...] = ()


class LocalPolicy:
    """An OpenVLA checkpoint as a `Policy`. Not to be called from two threads at once."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        unnorm_key: str | None = None,
        key_per_request: bool = False,
        vocabulary: Vocabulary = "full",
        runtime: RuntimeName = "eager",
        prompt_style: PromptStyle | None = None,
        center_crop: bool = False,
        token_rank: int = 1,
        idle: Idle = "keep",
        gripper: GripperOption = "auto",
        frame: str = "",
        period: float = 0.2,
    ) -> None:
        """Make a policy of a loaded checkpoint.

        Args:
            checkpoint: The checkpoint.
            unnorm_key: Name of the statistics. None: the checkpoint's only ones.
            key_per_request: Choose among several statistics in each call of `predict_batch` instead.
            vocabulary: Tokens that decoding may choose (see Head).
            runtime: How tokens are computed, never which: `static` is fastest where steps differ, `draft` where an
                action resembles the one before.
            prompt_style: Form of the prompt. None: by the checkpoint's path, as the reference does.
            center_crop: For policies trained with random-resized-crop augmentation.
            token_rank: 2 takes the second most likely token each time (paper, Appendix E).
            idle: `requery` takes the second most likely tokens where an action moves nothing (is_all_zero).
            gripper: Meaning of the policy's seventh number; `auto`: by the statistics' name (contract/gripper.py).
            frame: Frame in which the statistics were made; part of every chunk.
            period: Time between the actions of the data [s]; part of every chunk.

        Raises:
            ValueError: An option is unknown or does not suit the checkpoint.
        """
        self.checkpoint = checkpoint
        self.unnorm_key = unnorm_key
        if not (key_per_request and unnorm_key is None and len(checkpoint.statistics) > 1):
            self.unnorm_key, _ = choose(checkpoint.statistics, unnorm_key)
        self.tokens = checkpoint.action_tokenizer
        self.preparation = checkpoint.preparation
        if center_crop:
            self.preparation = self.preparation.with_crop(EVALUATION_CROP_AREA)
        self.prompt_style: PromptStyle = prompt_style or ("vicuna" if "v01" in checkpoint.path else "openvla")
        self.frame, self.period = frame, period
        self.gripper = check_option(gripper)
        if idle not in get_args(Idle):
            raise ValueError(f"idle: {idle!r} is unknown; choose one of {', '.join(get_args(Idle))}")
        self.head = Head(checkpoint.model, self.tokens, checkpoint.tokenizer.eos_id, vocabulary, token_rank)
        self.runtime: Runtime = make_runtime(runtime, checkpoint.model, self.head)
        self._last_answers = LastAnswers() if runtime == "draft" else None
        self._requery_runtime: Runtime | None = None
        if idle == "requery":
            less_likely = Head(checkpoint.model, self.tokens, checkpoint.tokenizer.eos_id, vocabulary, token_rank + 1)
            self._requery_runtime = EagerRuntime(checkpoint.model, less_likely)
        weight = checkpoint.model.language_model.lm_head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.encode_prompt = lru_cache(maxsize=256)(self._encode_prompt)
        self._mean_action_ids = lru_cache(maxsize=256)(self._encode_mean_action)

    @property
    def memory(self) -> MemoryUse:
        """Memory of the weights by part, and the peak since loading began."""
        return measure(self.checkpoint.model, self.device)

    def reset(self) -> None:
        """Begin a new episode: `draft` guesses nothing from earlier answers. Nothing else is kept between steps."""
        if self._last_answers is not None:
            self._last_answers.clear()

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """Predict the next actions for one observation."""
        return self.predict_batch([observation], [instruction])[0]

    def predict_batch(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        statistics: Sequence[str | None] | None = None,
        streams: Sequence[Hashable] | None = None,
    ) -> list[ActionChunk]:
        """Predict the next actions for several observations in one pass.

        Args:
            observations: What each robot observes.
            instructions: The task of each.
            statistics: Name of the statistics of each row; None in a row, or at all: those of the policy.
            streams: Identity of each robot, so that `draft` guesses from that robot's last action. None: rows of
                the same instruction are told apart by their order. A wrong identity costs time only.

        Returns:
            One chunk for each observation.

        Raises:
            ValueError: The arguments differ in number, or an observation lacks what the policy reads.
        """
        start = time.perf_counter()
        count = len(observations)
        if not count or count != len(instructions):
            raise ValueError(f"{count} observations and {len(instructions)} instructions")
        if streams is not None and len(streams) != count:
            raise ValueError(f"{len(streams)} streams for {count} observations")
        keys = [self.unnorm_key if key is None else key for key in statistics or [None] * count]
        chosen = [choose(self.checkpoint.statistics, key) for key in keys]
        prompts = [self.encode_prompt(instruction) for instruction in instructions]
        answers = self._answer(observations, prompts, chosen, streams)
        answered = time.perf_counter()
        actions = [
            convert_actions(entry.unnormalise(normalised), self.gripper, name)
            for (name, entry), normalised in zip(chosen, answers.normalised, strict=True)
        ]
        end = time.perf_counter()
        timings = {**answers.timings, "detokenise": end - answered, "total": end - start}
        return [
            ActionChunk(
                actions=actions[row],
                period=self.period,
                frame=self.frame,
                statistics_name=name,
                statistics_hash=entry.hash,
                timings=dict(timings),
                token_ids=None if answers.token_ids is None else answers.token_ids[row],
                accepted=answers.accepted[row] if answers.accepted else None,
            )
            for row, (name, entry) in enumerate(chosen)
        ]

    def _answer(
        self,
        observations: Sequence[Observation],
        prompts: list[tuple[int, ...]],
        chosen: Sequence[tuple[str, Statistics]],
        streams: Sequence[Hashable] | None,
    ) -> Answers:
        """Run the network on a consistent batch."""
        start = time.perf_counter()
        pixels_BCHW = self.preparation.prepare([o.image for o in observations], self.device).to(self.dtype)
        streams = _streams_by_order(prompts) if streams is None else streams
        guesses = self._guesses(streams, [name for name, _ in chosen])
        prepared = time.perf_counter()
        generated = self.runtime.generate(prompts, pixels_BCHW, ACTION_DIM, guesses)
        ids = generated.ids.numpy()
        if self._last_answers is not None:
            for stream, row_ids in zip(streams, ids, strict=True):
                self._last_answers.store(stream, row_ids)
        timings = {"preparation": prepared - start, **generated.timings}
        ids, requery = self._requery(ids, prompts, pixels_BCHW, [entry for _, entry in chosen])
        timings |= {"requery": requery} if requery else {}
        normalised = self.tokens.decode(ids)[:, None]
        timings["inference"] = time.perf_counter() - prepared
        return Answers(ids[:, None], normalised, timings, generated.accepted)

    def _requery(
        self, ids: np.ndarray, prompts: list[tuple[int, ...]], pixels_BCHW: Tensor, entries: list[Statistics]
    ) -> tuple[np.ndarray, float]:
        """Answer again the rows whose action moves nothing, where the options say so; and the time it took [s]."""
        if self._requery_runtime is None:
            return ids, 0.0
        moves = [entry.unnormalise(row) for entry, row in zip(entries, self.tokens.decode(ids), strict=True)]
        idle = [row for row, action in enumerate(moves) if is_all_zero(action)]
        if not idle:
            return ids, 0.0
        again = self._requery_runtime.generate([prompts[row] for row in idle], pixels_BCHW[idle], ACTION_DIM)
        answered = ids.copy()
        answered[idle] = again.ids.numpy()
        return answered, sum(again.timings.values())

    def _guesses(self, streams: Sequence[Hashable], names: Sequence[str]) -> list[tuple[int, ...]] | None:
        """Each stream's last answer, or the dataset's mean action where there is none yet."""
        if self._last_answers is None:
            return None
        return [
            self._last_answers.get(stream) or self._mean_action_ids(name)
            for stream, name in zip(streams, names, strict=True)
        ]

    def _encode_prompt(self, instruction: str) -> tuple[int, ...]:
        return tuple(self.checkpoint.tokenizer.encode_prompt(build_prompt(instruction, self.prompt_style)))

    def _encode_mean_action(self, name: str) -> tuple[int, ...]:
        entry = self.checkpoint.statistics[name]
        return tuple(self.tokens.encode(entry.normalise(entry.action.mean)).tolist())


def _streams_by_order(prompts: Sequence[tuple[int, ...]]) -> list[Hashable]:
    """Identify rows by prompt and, among those of the same prompt, by order."""
    count: Counter[tuple[int, ...]] = Counter()
    streams: list[Hashable] = []
    for prompt in prompts:
        streams.append((prompt, count[prompt]))
        count[prompt] += 1
    return streams
