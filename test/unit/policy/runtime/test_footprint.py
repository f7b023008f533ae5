"""Memory of the weights, from a checkpoint's files alone."""

from __future__ import annotations

import pytest

from openvla_policy.model.config import openvla_7b
from openvla_policy.runtime.footprint import read_header, weight_bytes
from openvla_policy.runtime.load import load_policy


def test_footprint_equals_memory_after_loading(root):
    folder = root / "checkpoints" / "openvla-tiny-sim"
    header = read_header(folder)
    for precision in ("fp32", "bf16", "int8", "int4"):
        loaded = load_policy(folder, precision=precision, device="cpu").memory.total
        assert weight_bytes(header.config, precision) == loaded


def test_footprint_of_7b_is_the_documented_one():
    sizes = {p: weight_bytes(openvla_7b(), p, "cuda") / 1e9 for p in ("bf16", "int8", "int4", "fp8", "int4-torchao")}
    table = {"bf16": 15.1, "int8": 7.8, "int4": 4.6, "fp8": 8.6, "int4-torchao": 5.6}  # docs/reference/precision.md
    assert sizes == pytest.approx(table, rel=0.02)
