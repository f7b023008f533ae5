"""Parity with the reference implementation, by test/fixtures/parity (its README says how they were made)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import LocalPolicy

ROOT = Path(__file__).parents[1] / "fixtures" / "parity"


@pytest.fixture(scope="session")
def reference() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def images() -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path).convert("RGB")) for path in sorted((ROOT / "images").iterdir())}


@pytest.fixture(scope="session")
def runs() -> list[dict[str, Any]]:
    return json.loads((ROOT / "fused_tiny/expected/runs.json").read_text())


@pytest.fixture(scope="session")
def policy() -> LocalPolicy:
    torch.manual_seed(0)
    return load_policy(ROOT / "fused_tiny/checkpoint", unnorm_key="fake_bridge", device="cpu")
