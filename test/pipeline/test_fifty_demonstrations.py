"""Fifty demonstrations recorded through the nodes, converted without loss, and a policy trained from them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from openvla_policy.checkpoint.folder import load_folder
from openvla_training.rlds.reader import read_episodes

pytestmark = [pytest.mark.slow, pytest.mark.ros, pytest.mark.timeout(1500)]
EPISODES = 50


def actions_of(bag: Path) -> tuple[int, int]:
    """Count the actions in a bag, and those that the bridge executed, without the converter.

    The action in execution when the cube is lifted ends the recording and counts; one that the gate stopped (a busy
    machine's clocks may lag) was predicted again and does not.
    """
    sent: set[int] = set()
    executed: set[int] = set()
    with AnyReader([bag]) as reader:
        topics = ("/policy/action_chunk", "/safety/state")
        for connection, _, raw in reader.messages([c for c in reader.connections if c.topic in topics]):
            message = reader.deserialize(raw, connection.msgtype)
            (sent if connection.topic == topics[0] else executed).add(
                message.sequence if connection.topic == topics[0] else message.executed_sequence
            )
    return len(sent), sum(number in executed or number > max(executed) for number in sent)


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recorded by openvla-collect: simulator, bridge and recorder as processes, the expert on policy/action_chunk."""
    folder = tmp_path_factory.mktemp("fifty") / "bags"
    options = ["--episodes", str(EPISODES), "--seed", "3000", "--instances", "2"]
    command = ["openvla-collect", "--output", str(folder), *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])
    return folder


def test_fifty_demonstrations_convert_with_none_lost(bags: Path, tmp_path: Path) -> None:
    index = [json.loads(line) for line in (bags / "episodes.jsonl").read_text("utf-8").splitlines()]
    recorded = {entry["episode_id"]: entry for entry in index}
    folders = {path.parent.name: path.parent for path in bags.glob("bags-*/*/metadata.yaml")}
    assert len(recorded) == EPISODES and recorded.keys() == folders.keys()
    assert {entry["seed"] for entry in index} == set(range(3000, 3000 + EPISODES))

    options = ["--rate", "5", "--strict", "--no-drop-noops", "--no-drop-first-zero", "--no-report"]
    command = ["openvla-convert", str(bags), "--output", str(tmp_path), "--dataset-name", "fifty", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout.splitlines()[-1])

    episodes = {e.episode_id: e for e in read_episodes(tmp_path / "fifty", split="all")}
    assert episodes.keys() == recorded.keys()
    left_out = 0
    for name, episode in episodes.items():
        sent, executed = actions_of(folders[name])
        assert len(episode.images) == len(episode.actions) == len(episode.states) == executed, name
        assert sent == recorded[name]["steps"] and sent - executed <= 2, name
        assert episode.instruction == recorded[name]["instruction"]
        assert all(image.shape == (224, 224, 3) and np.ptp(image) > 100 for image in episode.images)
        left_out += sent - executed
    steps = sum(len(episode.actions) for episode in episodes.values())
    assert f"{EPISODES} episodes ({steps} steps) added" in done.stdout
    assert ("left out" in done.stdout) == (left_out > 0)


def test_one_command_retrains_the_shipped_policy(bags: Path, tmp_path: Path, root: Path) -> None:
    environment = os.environ | {"BAGS": str(bags), "OUT": str(tmp_path), "STEPS1": "3"}
    done = _policy(root, environment)
    result = load_folder(tmp_path / "bags" / "checkpoint")
    shipped = load_folder(root / "checkpoints" / "openvla-tiny-sim")
    assert result.config == shipped.config and result.statistics.keys() == shipped.statistics.keys()
    assert f"written: {tmp_path}/bags/checkpoint" in done


def test_make_policy_completes_in_small(tmp_path: Path, root: Path) -> None:
    numbers = {"DEMONSTRATIONS": "4", "CORRECTIONS": "2", "STEPS1": "3", "STEPS2": "3"}
    environment = os.environ | {"OUT": str(tmp_path)} | numbers
    _policy(root, environment)
    assert load_folder(tmp_path / "stage2" / "checkpoint").statistics["sim_cubes"].num_trajectories > 0


def _policy(root: Path, environment: dict[str, str]) -> str:
    """Run the script of `make policy` without the set-up."""
    done = subprocess.run(
        ["bash", str(root / "scripts" / "policy.bash")], env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout
