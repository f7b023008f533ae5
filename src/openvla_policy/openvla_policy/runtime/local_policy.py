"""The policy that runs in this process: observation and instruction in, action chunk out."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Hashable, Sequence
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
from openvla_policy.runtime.speculative import Memory

Idle = Literal["keep", "requery"]
_LOG = logging.getLogger("openvla.policy")


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
        """`frame` and `period` [s] go into every chunk: the frame and rate the statistics were made in.

        `key_per_request` puts the choice among several statistics off to each call of `predict_batch`.
        `prompt_style` None decides by the checkpoint's path, as the reference does. `center_crop` is for
        policies trained with random-resized-crop augmentation. `token_rank` 2 asks for the second most
        likely tokens, always; `idle` "requery" only where an action moves nothing (is_all_zero), in a second
        pass (paper, Appendix E). `gripper` says what the policy's seventh number means; "auto" goes by the
        statistics' name (contract/gripper.py). `runtime` says how tokens are computed, never which: `static` is
        fastest where steps differ, `draft` where an action resembles the one before.
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
        head = Head(checkpoint.model, self.tokens, checkpoint.tokenizer.eos_id, vocabulary, token_rank)
        self.runtime: Runtime = make_runtime(runtime, checkpoint.model, head)
        self._memory = Memory() if runtime == "draft" else None
        if idle not in get_args(Idle):
            raise ValueError(f"idle: {idle!r} is unknown; choose one of {', '.join(get_args(Idle))}")
        self._second: Runtime | None = None
        if idle == "requery":
            less_likely = Head(checkpoint.model, self.tokens, checkpoint.tokenizer.eos_id, vocabulary, token_rank + 1)
            self._second = EagerRuntime(checkpoint.model, less_likely)
        weight = checkpoint.model.language_model.lm_head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._prompt_ids = lru_cache(maxsize=256)(self._encode)
        self._usual_ids = lru_cache(maxsize=256)(self._encode_mean)

    @property
    def memory(self) -> MemoryUse:
        """Bytes of the weights by part, and the most that was in use since loading began."""
        return measure(self.checkpoint.model, self.device)

    def reset(self) -> None:
        """Forget the answers from which `draft` guesses the next; nothing else is kept between steps."""
        if self._memory is not None:
            self._memory.forget()

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """One action for one observation."""
        return self.predict_batch([observation], [instruction])[0]

    def predict_batch(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        statistics: Sequence[str | None] | None = None,
        streams: Sequence[Hashable] | None = None,
    ) -> list[ActionChunk]:
        """One action for each (observation, instruction); `statistics` may name another key a row.

        `streams` name the robot each row is of, so that `draft` guesses from that robot's last action; without
        them, rows of the same instruction are told apart by their order. A mix-up costs time and nothing else.
        """
        start = time.perf_counter()
        if not observations or len(observations) != len(instructions):
            raise ValueError(f"{len(observations)} observations and {len(instructions)} instructions")
        keys = [self.unnorm_key if key is None else key for key in statistics or [None] * len(observations)]
        chosen = [choose(self.checkpoint.statistics, key) for key in keys]
        pixels_BCHW = self.preparation.prepare([o.image for o in observations], self.device).to(self.dtype)
        prompts = [self._prompt_ids(instruction) for instruction in instructions]
        streams = _in_order(prompts) if streams is None else streams
        if len(streams) != len(prompts):
            raise ValueError(f"{len(streams)} streams for {len(prompts)} observations")
        guesses = self._guesses(streams, [name for name, _ in chosen])
        prepared = time.perf_counter()
        generated = self.runtime.generate(prompts, pixels_BCHW, ACTION_DIM, guesses)
        ids = generated.ids.numpy()
        if self._memory is not None:
            for stream, row_ids in zip(streams, ids, strict=True):
                self._memory.store(stream, row_ids)
        timings = {"preparation": prepared - start, **generated.timings}
        ids, again = self._requery(ids, prompts, pixels_BCHW, [entry for _, entry in chosen])
        timings |= {"requery": again} if again else {}
        generated_at = time.perf_counter()
        normalised = self.tokens.decode(ids)
        actions = [
            convert_actions(entry.unnormalise(normalised[row : row + 1]), self.gripper, name)
            for row, (name, entry) in enumerate(chosen)
        ]
        end = time.perf_counter()
        timings |= {"detokenise": end - generated_at, "inference": generated_at - prepared, "total": end - start}
        chunks = []
        for row, (name, entry) in enumerate(chosen):
            chunks.append(
                ActionChunk(
                    actions=actions[row],
                    period=self.period,
                    frame=self.frame,
                    statistics_name=name,
                    statistics_hash=entry.hash,
                    timings=dict(timings),
                    token_ids=ids[row : row + 1],
                    accepted=generated.accepted[row] if generated.accepted else None,
                )
            )
        return chunks

    def _requery(
        self, ids: np.ndarray, prompts: list[tuple[int, ...]], pixels_BCHW: Tensor, entries: list[Statistics]
    ) -> tuple[np.ndarray, float]:
        """Rows whose action moves nothing answered again, where asked for; and the seconds that took."""
        if self._second is None:
            return ids, 0.0
        moves = [entry.unnormalise(row) for entry, row in zip(entries, self.tokens.decode(ids), strict=True)]
        still = [row for row, action in enumerate(moves) if is_all_zero(action)]
        if not still:
            return ids, 0.0
        again = self._second.generate([prompts[row] for row in still], pixels_BCHW[still], ACTION_DIM)
        answered = ids.copy()
        answered[still] = again.ids.numpy()
        return answered, sum(again.timings.values())

    def _encode(self, instruction: str) -> tuple[int, ...]:
        return tuple(self.checkpoint.tokenizer.encode_prompt(build_prompt(instruction, self.prompt_style)))

    def _guesses(self, streams: Sequence[Hashable], names: Sequence[str]) -> list[tuple[int, ...]] | None:
        """Each stream's last answer, or the dataset's mean action where there is none yet."""
        if self._memory is None:
            return None
        return [self._memory.recall(s) or self._usual_ids(name) for s, name in zip(streams, names, strict=True)]

    def _encode_mean(self, name: str) -> tuple[int, ...]:
        entry = self.checkpoint.statistics[name]
        return tuple(self.tokens.encode(entry.normalise(entry.action.mean)).tolist())


def _in_order(prompts: Sequence[tuple[int, ...]]) -> list[Hashable]:
    seen: Counter[tuple[int, ...]] = Counter()
    streams: list[Hashable] = []
    for prompt in prompts:
        streams.append((prompt, seen[prompt]))
        seen[prompt] += 1
    return streams
