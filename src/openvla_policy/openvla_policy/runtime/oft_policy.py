"""Policies fine-tuned the OpenVLA-OFT way: several images and the state in, a chunk of actions out of one pass."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence

import numpy as np
import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.contract.action import ACTION_DIM
from openvla_policy.contract.observation import Observation
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.heads import OFTHeads
from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.local_policy import Answers, LocalPolicy


class OFTPolicy(LocalPolicy):
    """A checkpoint with OFT heads: chunks of `heads.config.chunk` actions. load_policy finds the heads.

    `Observation.image` is the primary camera; the others are taken from `extra_images` by the names in
    `heads.config.cameras`. `Observation.state` is the proprioception in the dataset's units and order (LIBERO:
    position x y z [m], axis-angle rotation [rad], the two finger joints [m]).
    """

    def __init__(
        self, checkpoint: Checkpoint, heads: OFTHeads, *, vocabulary: Vocabulary = "full", **options: object
    ) -> None:
        """Make a policy of a loaded checkpoint and its heads.

        Args:
            checkpoint: The checkpoint.
            heads: Its heads.
            vocabulary: Tokens that decoding may choose, where the actions are tokens (no L1 head).
            **options: Of LocalPolicy. `runtime` has no effect, as everything is one pass.

        Raises:
            ValueError: An option is unknown or needs decoding token by token (`token_rank`, `idle`).
        """
        if options.get("token_rank", 1) != 1 or options.get("idle", "keep") != "keep":
            raise ValueError("token_rank and idle: a policy with OFT heads has no second most likely tokens")
        super().__init__(checkpoint, vocabulary=vocabulary, **(options | {"runtime": "eager"}))  # type: ignore[arg-type]
        self.heads = heads

    @torch.inference_mode()
    def _answer(
        self,
        observations: Sequence[Observation],
        prompts: list[tuple[int, ...]],
        chosen: Sequence[tuple[str, Statistics]],
        streams: Sequence[Hashable] | None,
    ) -> Answers:
        start = time.perf_counter()
        images = [self._images(observation) for observation in observations]
        pixels = self.preparation.prepare([image for row in images for image in row], self.device).to(self.dtype)
        pixels_BICHW = pixels.unflatten(0, (len(images), -1))
        state_BP = None
        if self.heads.config.proprio:
            rows = [self._state(o, name, entry) for o, (name, entry) in zip(observations, chosen, strict=True)]
            state_BP = torch.from_numpy(np.stack(rows)).to(self.device, self.dtype)
        prepared = time.perf_counter()
        model, eos = self.checkpoint.model, self.checkpoint.tokenizer.eos_id
        hidden_BMD = self.heads.hidden(model, prompts, pixels_BICHW, state_BP, eos)
        shape = (len(observations), self.heads.config.chunk, ACTION_DIM)
        ids: np.ndarray | None = None
        if self.heads.action_head is not None:
            normalised = self.heads.action_head(hidden_BMD.reshape(*shape[:2], -1)).double().cpu().numpy()
        else:
            ids = self.head.choose(hidden_BMD.flatten(0, 1)).view(shape).cpu().numpy()
            normalised = self.tokens.decode(ids)
        return Answers(ids, normalised, {"preparation": prepared - start, "inference": time.perf_counter() - prepared})

    def _images(self, observation: Observation) -> list[np.ndarray]:
        config, extra = self.heads.config, observation.extra_images
        for name in config.cameras:
            if name not in extra:
                has = ", ".join(["the primary image", *sorted(extra)])
                raise ValueError(
                    f"camera {name!r}: missing from the observation, which has {has}. This policy reads "
                    f"{config.images} images: put it into Observation.extra_images, or load the policy with cameras="
                )
        return [observation.image, *(extra[name] for name in config.cameras)]

    def _state(self, observation: Observation, name: str, entry: Statistics) -> np.ndarray:
        """The state in [-1, 1], as in training: by quantiles, clipped, 0 where it never changed."""
        size = self.heads.config.proprio
        if entry.proprio is None or entry.proprio.dim != size:
            has = "none" if entry.proprio is None else str(entry.proprio.dim)
            raise ValueError(f"statistics {name!r}: this policy reads a state of {size} numbers, its proprio has {has}")
        state = None if observation.state is None else np.asarray(observation.state, dtype=np.float64)
        if state is None or state.shape != (size,) or not np.isfinite(state).all():
            has = "there is none" if state is None else f"got {state.tolist()}"
            raise ValueError(
                f"state: this policy reads {size} finite numbers (its statistics' 'proprio', in that order); {has}. "
                "Put them into Observation.state"
            )
        return np.clip(entry.proprio.normalise(state), -1, 1)
