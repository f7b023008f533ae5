"""Policies with random weights, created tensor by tensor in their precision and on their device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.tokenizer_training import train_tokenizer
from openvla_policy.checkpoint.weights import assign
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.precision import Precision, compute_dtype, placer

INSTRUCTION = "put the red block into the bowl"


def random_checkpoint(config: OpenVLAConfig, precision: Precision, device: torch.device, seed: int = 0) -> Checkpoint:
    """Create a checkpoint of random weights, the same for each precision on one device.

    The model never exists as a whole in full precision.
    """
    dtype = compute_dtype(precision, device)
    place = placer(precision, device)
    with torch.device("meta"):
        model = OpenVLA(config)
    generator = torch.Generator(device)
    for index, (name, empty) in enumerate(model.state_dict().items()):
        generator.manual_seed(seed * 100_003 + index)
        tensor = _random(name, empty, dtype, device, generator)
        if place is None or not place(model, name, tensor):
            assign(model, name, tensor)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return Checkpoint(
        model=model.eval(),
        config=config,
        tokenizer=train_tokenizer([build_prompt(INSTRUCTION)], config.action_vocab_size),
        preparation=ImagePreparation.standard(config.image_size, ["imagenet", "half"] if config.fused else ["half"]),
        statistics={"random": compute([np.random.default_rng(seed).normal(size=(64, 7))])},
    )


def _random(name: str, like: Tensor, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> Tensor:
    """Create a tensor with the spread of OpenVLA.init_weights, except for token embeddings.

    These are large beside what attention gathers from 256 similar image tokens: each token determines the next, so
    that an answer does not repeat one token, which `draft` would predict unrealistically well.
    """
    made = torch.empty(like.shape, dtype=dtype, device=device)
    if name.endswith("scale_factor"):
        return made.fill_(0.1)
    if like.ndim == 1:
        return made.fill_(1.0 if name.endswith("weight") else 0.0)
    if "embed_tokens" in name:
        return made.normal_(std=16.0, generator=generator)
    inputs = like[0].numel() if name.endswith("weight") else 4
    return made.normal_(std=inputs**-0.5, generator=generator)


def frames(count: int, size: int = 256, seed: int = 1) -> list[np.ndarray]:
    """Return `count` random camera images, uint8 (size, size, 3)."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def parameters(config: OpenVLAConfig) -> int:
    """Count the parameters of a model of this shape."""
    with torch.device("meta"):
        model: nn.Module = OpenVLA(config)
    return sum(parameter.numel() for parameter in model.parameters())
