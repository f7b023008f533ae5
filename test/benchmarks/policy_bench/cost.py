"""Bytes and operations of one action, stage by stage, and the time a machine would need at the least."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vit_sizes import VisionGeometry
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.memory import tensor_bytes

STAGES = ("vision", "prefill", "decode")
# The number format in which a precision multiplies its quantised matrices.
FORMATS = {"fp32": "fp32", "int8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class Cost:
    """Of one pass through a stage: bytes of weights (and cached keys and values) read, operations done."""

    bytes: float
    operations: float


def costs(model: OpenVLA, prompt: int, rows: int) -> dict[str, Cost]:
    """Vision (with the projector), prefill, and one decoding step of a prompt of `prompt` tokens.

    `rows` of the head are looked at. Weights count as they are stored; the encoders' last blocks, which nobody
    needs, do not count. Activations are left out: they fit caches, or are small beside the weights.
    """
    config, text = model.config, model.config.text
    length = prompt + config.patches
    unused = tuple(
        f"{encoder}.{part}"
        for encoder, geometry in zip(("featurizer", "fused_featurizer"), config.vision, strict=False)
        for part in (f"blocks.{geometry.depth - 1}.", "norm.", "attn_pool.")
    )
    seeing = sum(tensor_bytes(p) for n, p in model.vision_backbone.named_parameters() if not n.startswith(unused))
    projecting = sum(tensor_bytes(p) for p in model.projector.parameters())
    decoder = sum(tensor_bytes(p) for n, p in model.language_model.model.named_parameters() if "embed_tokens" not in n)
    head = model.language_model.lm_head.weight
    head_bytes = rows * head.shape[1] * head.element_size()
    cached = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * head.element_size()
    attention = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim  # a query and a key
    matrices = _decoder_elements(config)
    return {
        "vision": Cost(seeing + projecting, sum(map(_encoder, config.vision)) + _projector(config)),
        "prefill": Cost(
            decoder + head_bytes,
            2 * length * matrices + attention * length * length / 2 + 2 * rows * text.hidden_size,
        ),
        "decode": Cost(
            decoder + head_bytes + cached * length, 2 * matrices + attention * length + 2 * rows * text.hidden_size
        ),
    }


def floor(
    cost: Mapping[str, Cost], precision: str, bandwidth: float, rates: Mapping[str, float], steps: int
) -> dict[str, float]:
    """Seconds by stage at `bandwidth` [B/s] and `rates` [operations/s]: whichever of the two takes longer."""
    rate = rates.get(FORMATS.get(precision, "bf16"), rates["fp32"])
    seeing = rates.get("bf16", rates["fp32"]) if precision == "fp8" else rate
    least = {}
    for stage in STAGES:
        times = steps if stage == "decode" else 1
        at = seeing if stage == "vision" else rate
        least[stage] = times * max(cost[stage].bytes / bandwidth, cost[stage].operations / at)
    return least


def _encoder(geometry: VisionGeometry) -> float:
    tokens, width = geometry.patches + geometry.prefix, geometry.width
    block = 2 * tokens * (4 * width**2 + 2 * width * geometry.mlp_width) + 4 * tokens**2 * width
    return 2 * geometry.patches * 3 * geometry.patch**2 * width + (geometry.depth - 1) * block


def _projector(config: OpenVLAConfig) -> float:
    vision, text = config.vision_width, config.text.hidden_size
    widths = [vision, 4 * vision, text, text] if config.fused else [vision, text, text]
    if not config.fused and config.projector == "linear":
        widths = [vision, text]
    return 2 * config.patches * sum(a * b for a, b in itertools.pairwise(widths))


def _decoder_elements(config: OpenVLAConfig) -> int:
    t = config.text
    attention = 2 * t.hidden_size * t.head_dim * (t.num_attention_heads + t.num_key_value_heads)
    return t.num_hidden_layers * (attention + 3 * t.hidden_size * t.intermediate_size)
