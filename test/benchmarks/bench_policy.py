"""`make bench`: latency of the policy in each runtime and precision, beside the reference implementation.

The model has the published 7B shape on an NVIDIA GPU, the mid-size shape elsewhere. `QUICK=1 make bench` takes a
minute. Further options: `python -m policy_bench --help`.
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
    measured = {row["name"] for row in json.loads(path.read_text())["rows"] if not row["problem"]}
    assert {"baseline: generate", "baseline: reference", "eager"} <= measured
    assert path.with_suffix(".png").stat().st_size > 10_000
