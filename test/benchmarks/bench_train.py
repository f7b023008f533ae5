"""`make bench-train` with a tiny model; both loops train the same network, so their first losses are equal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from train_bench.__main__ import run


@pytest.mark.timeout(1800)
def test_train(tmp_path: Path) -> None:
    path = run(["--device", "cpu", "--models", "tiny", "--quick", "--output", str(tmp_path)])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["what"], row["loop"]) for row in rows] == [
        (what, loop) for what in ("lora r=32", "full") for loop in ("ours", "plain")
    ]
    for row in rows:
        assert not row["problem"] and row["samples_per_s"] > 0
        assert row["losses"][0] == pytest.approx(rows[0]["losses"][0], rel=1e-3)
