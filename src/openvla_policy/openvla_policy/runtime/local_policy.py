"""The policy that runs in this process: observation and instruction in, action chunk out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch

from ..checkpoint.folder import Checkpoint, load_folder
from ..contract.action import ACTION_DIM, ActionChunk
from ..contract.image import EVALUATION_CROP_AREA
from ..contract.observation import Observation
from ..contract.prompt import PromptStyle, build_prompt
from ..contract.statistics import choose
from .decoding import Head, Runtime, Vocabulary
from .eager import EagerRuntime

Precision = Literal["fp32", "bf16"]
RuntimeName = Literal["eager"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
        frame: str = "",
        period: float = 0.2,
    ) -> None:
        """`frame` and `period` [s] go into every chunk: the frame and rate the statistics were made in.

        `key_per_request` puts the choice among several statistics off to each call of `predict_batch`.
        `prompt_style` None decides by the checkpoint's path, as the reference does. `center_crop` is for
        policies trained with random-resized-crop augmentation. `token_rank` 2 asks for the second most
        likely tokens.
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
        head = Head(checkpoint.model, self.tokens, checkpoint.tokenizer.eos_id, vocabulary, token_rank)
        if runtime not in get_args(RuntimeName):
            choices = ", ".join(get_args(RuntimeName))
            raise ValueError(f"runtime: {runtime!r} is unknown; choose one of {choices}")
        self.runtime: Runtime = EagerRuntime(checkpoint.model, head)
        weight = checkpoint.model.language_model.lm_head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self._prompt_ids = lru_cache(maxsize=256)(self._encode)

    @classmethod
    def from_folder(
        cls,
        path: str | Path,
        *,
        precision: Precision = "fp32",
        device: torch.device | str | None = None,
        base: str | Path | None = None,
        **options: object,
    ) -> LocalPolicy:
        """Load a checkpoint folder, hub id or un-merged adapter (with its `base`); `options` as above."""
        if precision not in _DTYPES:
            raise ValueError(f"precision: {precision!r} is unknown; choose one of {', '.join(_DTYPES)}")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(load_folder(path, _DTYPES[precision], device, base), **options)  # type: ignore[arg-type]

    def reset(self) -> None:
        """Nothing is kept between steps."""

    def predict(self, observation: Observation, instruction: str) -> ActionChunk:
        """One action for one observation."""
        return self.predict_batch([observation], [instruction])[0]

    def predict_batch(
        self,
        observations: Sequence[Observation],
        instructions: Sequence[str],
        statistics: Sequence[str | None] | None = None,
    ) -> list[ActionChunk]:
        """One action for each (observation, instruction); `statistics` may name another key a row."""
        start = time.perf_counter()
        if not observations or len(observations) != len(instructions):
            raise ValueError(f"{len(observations)} observations and {len(instructions)} instructions")
        keys = [self.unnorm_key if key is None else key for key in statistics or [None] * len(observations)]
        chosen = [choose(self.checkpoint.statistics, key) for key in keys]
        resized = np.stack([self.preparation.resize(observation.image) for observation in observations])
        pixels_BCHW = self.preparation.normalise(resized, self.device).to(self.dtype)
        prompts = [self._prompt_ids(instruction) for instruction in instructions]
        prepared = time.perf_counter()
        generated = self.runtime.generate(prompts, pixels_BCHW, ACTION_DIM)
        ids = generated.ids.numpy()
        timings = {"preparation": prepared - start, **generated.timings}
        timings["inference"] = time.perf_counter() - prepared
        normalised = self.tokens.decode(ids)
        chunks = []
        for row, (name, entry) in enumerate(chosen):
            timings["total"] = time.perf_counter() - start
            chunks.append(
                ActionChunk(
                    actions=entry.unnormalise(normalised[row : row + 1]),
                    period=self.period,
                    frame=self.frame,
                    statistics_name=name,
                    statistics_hash=entry.hash,
                    timings=dict(timings),
                    token_ids=ids[row : row + 1],
                )
            )
        return chunks

    def _encode(self, instruction: str) -> tuple[int, ...]:
        return tuple(self.checkpoint.tokenizer.encode_prompt(build_prompt(instruction, self.prompt_style)))
