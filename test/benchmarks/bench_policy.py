"""`make bench`: how fast the shipped policy answers, and the memory bandwidth that decoding reaches."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.table import Table

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.local_policy import LocalPolicy

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "openvla-tiny-sim"
WARM_UP, ROUNDS = 5, 50
DECODES = 6  # forward passes of one token; the first of the 7 action tokens comes out of the prefill


def decoder_bytes(model: torch.nn.Module) -> int:
    """Give what one decoding step reads: the language model's weights but for the table of embeddings."""
    named = model.language_model.named_parameters()
    return sum(p.numel() * p.element_size() for name, p in named if "embed_tokens" not in name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shipped_policy(precision: str) -> None:
    if not (CHECKPOINT / "config.json").exists():
        pytest.skip(f"{CHECKPOINT} is not there")
    policy = LocalPolicy.from_folder(CHECKPOINT, precision=precision)
    image = np.random.default_rng(0).integers(0, 255, (256, 256, 3), dtype=np.uint8)

    timings: list[dict[str, float]] = []
    for _ in range(WARM_UP + ROUNDS):
        chunk = policy.predict(Observation(image=image, stamp=time.time()), "lift the red cube")
        timings.append(dict(chunk.timings))

    model = policy.checkpoint.model
    parameters = sum(parameter.numel() for parameter in model.parameters())
    table = Table(title=f"{CHECKPOINT.name}, {parameters / 1e6:.1f} M parameters, {precision}, {policy.device}")
    for column in ("part", "p50 [ms]", "p90 [ms]", "rate [Hz]", "weights read [GB/s]"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part in timings[0]:
        p50, p90 = np.percentile([t[part] for t in timings[WARM_UP:]], [50, 90])
        rate = f"{1 / p50:.1f}" if part == "total" else ""
        read = f"{DECODES * decoder_bytes(model) / p50 / 1e9:.2f}" if part == "decode" else ""
        table.add_row(part, f"{1e3 * p50:.2f}", f"{1e3 * p90:.2f}", rate, read)
    Console().print(table, f"{torch.get_num_threads()} threads")
