"""Bytes and operations of one action by stage, and the least time that a machine needs for them (roofline)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vit_sizes import VisionGeometry
from openvla_policy.model.vla import OpenVLA
from openvla_policy.runtime.memory import tensor_bytes

STAGES = ("vision", "prefill", "decode")
# Number format in which a precision multiplies matrices; others: bf16.
FORMATS = {"fp32": "fp32", "int8": "int8", "fp8": "fp8"}


@dataclass(frozen=True)
class Cost:
    """One pass through a stage: bytes of weights and cached keys and values, and operations."""

    bytes: float
    operations: float


def costs(model: OpenVLA, prompt: int, rows: int) -> dict[str, Cost]:
    """Count the costs of vision (with the projector), prefill and one decoding step.

    Weights count with their stored size, without the unused last blocks of the encoders. Activations do not count:
    they fit into caches or are small beside the weights.

    Args:
        model: The model.
        prompt: Length of the prompt [tokens].
        rows: Rows of the head that are computed.

    Returns:
        Cost by stage.
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
    attention = 4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim  # of one query and one key
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
    """Return the least time of each stage [s]: the longer of reading and computing.

    Args:
        cost: Of one pass, by stage.
        precision: Decides the number format of the products.
        bandwidth: Memory bandwidth [B/s].
        rates: Rates of matrix products by number format [operations/s].
        steps: Decoding steps of one action.
    """
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
