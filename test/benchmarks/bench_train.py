"""`make bench-train` in small, and that both loops train the same network: their first losses are equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_bench.__main__ import run


@pytest.mark.timeout(600)
def test_train(tmp_path: Path) -> None:
    rows = json.loads(run(["--device", "cpu", "--models", "tiny", "--quick", "--output", str(tmp_path)]).read_text())[
        "rows"
    ]
    assert [(row["what"], row["loop"]) for row in rows] == [
        (what, loop) for what in ("lora r=32", "full") for loop in ("ours", "plain")
    ]
    for row in rows:
        assert not row["problem"] and row["samples_per_s"] > 0
        assert row["losses"][0] == pytest.approx(rows[0]["losses"][0], rel=1e-3)
