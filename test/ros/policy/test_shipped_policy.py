"""The shipped checkpoint in real processes: it lifts the named cube, and only by its camera."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ros
CHECKPOINT = "checkpoints/openvla-tiny-sim"


@pytest.fixture
def evaluate(start_process: Callable[..., Any], wait_for: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Give `evaluate(*arguments)`: the summary of an `openvla-demo` with the shipped policy."""

    def evaluate(*arguments: str) -> dict[str, Any]:
        process = start_process(
            "module:openvla_ros.evaluation.demo",
            "--output",
            str(tmp_path),
            "--no-video",
            "--max-steps",
            "25",
            *arguments,
        )
        wait_for(lambda: not process.running, 380, "the evaluation to end")
        assert process.popen.returncode == 0, process.output
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["failure"] is None
        return summary

    return evaluate


def test_shipped_policy_lifts_named_cubes_on_unseen_seeds(evaluate: Callable[..., Any]) -> None:
    summary = evaluate("--episodes", "6", "--seed", "700")
    assert len(summary["episodes"]) == 6
    # The measured rate is in the model card; neither chance nor a blind policy reaches half of six.
    assert summary["success_rate"]["successes"] >= 4, summary["episodes"]


@pytest.mark.parametrize("camera", ["black", pytest.param("frozen", marks=pytest.mark.slow)])
def test_without_camera_it_lifts_nothing(evaluate: Callable[..., Any], camera: str) -> None:
    # Faster than real time where the machine can: a policy without images uses all of its steps.
    summary = evaluate("--episodes", "3", "--seed", "700", "--camera", camera, "--real-time-factor", "3")
    assert len(summary["episodes"]) == 3
    assert summary["success_rate"]["successes"] == 0, summary["episodes"]


def test_policy_node_does_not_import_the_simulator(root: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys, openvla_ros.nodes.policy.policy_node\n"
        "print([name for name in sys.modules if name.startswith('openvla_ros.sim') or name == 'mujoco'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
