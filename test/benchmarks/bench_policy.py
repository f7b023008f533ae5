"""`make bench`: how fast the policy is here, in every runtime and precision, beside the reference's way.

On a machine with an NVIDIA GPU the model has the published 7B shape, elsewhere the mid-size one. `QUICK=1 make bench`
takes a minute. Options beyond that: `python -m policy_bench --help`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from policy_bench.__main__ import run

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(1800)
def test_policy() -> None:
    quick = ["--quick"] if os.environ.get("QUICK") else []
    path = run(["--output", str(ROOT / "outputs" / "bench"), *quick])
    rows = json.loads(path.read_text())["rows"]
    measured = [row for row in rows if not row["problem"]]
    assert {"baseline: generate", "baseline: reference", "eager"} <= {row["name"] for row in measured}
    assert path.with_suffix(".png").stat().st_size > 10_000
