"""The pipeline once: simulated demonstrations -> bags -> RLDS -> training -> the policy in the closed loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openvla_policy.checkpoint.folder import load_folder
from openvla_training.bags.cli import main as convert
from openvla_training.rlds.reader import read_episodes
from openvla_training.trainer.cli import main as train

pytestmark = pytest.mark.ros
SHAPE = "{image_size: 28, vision_width: 16, vision_depth: 2, vision_heads: 2, hidden_size: 32, layers: 1}"


def test_from_demonstration_to_closed_loop(
    start_process: Callable[..., Any], wait_for: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(module: str, *arguments: str) -> str:
        process = start_process(f"module:openvla_ros.evaluation.{module}", *arguments)
        wait_for(lambda: not process.running, 250, f"{module} to end")
        assert process.popen.returncode == 0, process.output
        return process.output

    # Recorded through the real topics, by the real recorder.
    bags = tmp_path / "bags"
    output_text = run(
        "collect", "--episodes", "3", "--seed", "40", "--output", str(bags), "--label-all", "--wander", "2"
    )
    assert output_text.splitlines()[-1].startswith("recorded 3 episodes, 3 successes"), output_text
    recorded = [json.loads(line) for line in (bags / "episodes.jsonl").read_text().splitlines()]

    # One episode for each recording and cube, with the executed steps.
    rlds = tmp_path / "rlds"
    options = ["--dataset-name", "cubes", "--rate", "5", "--actions", "expert/action_chunk", "--val-fraction", "0"]
    folders = [str(path) for path in sorted(bags.glob("bags-*"))]
    options += ["--image-size", "camera", "--workers", "1", "--no-drop-noops", "--no-drop-first-zero"]
    assert convert([*folders, "--output", str(rlds), *options]) == 0
    episodes = list(read_episodes(rlds))
    assert len(episodes) == 9
    steps = {entry["episode_id"]: entry["steps"] for entry in recorded}
    for episode in episodes:
        recording, sentence = episode.episode_id.split("#")
        assert sentence == episode.instruction and len(episode.actions) == len(episode.images) == steps[recording]
        assert episode.images[0].shape == (224, 224, 3) and np.ptp(episode.images[0]) > 100
        assert np.abs(episode.actions[:, :3]).max() <= 0.1 + 1e-6 and set(episode.actions[:, 6]) <= {0.0, 1.0}

    # Training writes a folder that the policy node loads.
    output = tmp_path / "train"
    arguments = [
        f"output.folder={output}", "output.validate_every=8", f"data.datasets=[{rlds / 'cubes'}]",
        "data.dataset_name=cubes", "data.batch_size=8", f"model.shape={SHAPE}", "optimizer.learning_rate=1e-3",
        "schedule.steps=8", "parallel.threads=1",
    ]  # fmt: skip
    assert train(arguments) == 0
    assert str(output / "checkpoint") in capsys.readouterr().out.splitlines()[-1]
    statistics = load_folder(output / "checkpoint").statistics["cubes"]
    assert statistics.num_transitions == sum(len(episode.actions) for episode in episodes)

    # In the closed loop: its actions, un-normalised by those statistics, are executed.
    demo = tmp_path / "demo"
    arguments = ["--checkpoint", str(output / "checkpoint"), "--episodes", "1", "--max-steps", "3", "--no-video"]
    run("demo", *arguments, "--output", str(demo))
    summary = json.loads((demo / "summary.json").read_text())
    (episode_run,) = summary["episodes"]
    assert summary["failure"] is None and episode_run["steps"] == 3
    assert summary["policy"]["checkpoint"] == str(output / "checkpoint")
