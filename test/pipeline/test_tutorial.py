"""docs/tutorials/from-gamepad-to-policy.md, run as written; a program replaces the person with the gamepad.

The page's blocks are marked: `run` and `terminal` are run here, in order; `workstation` (a driver that only a ROS
installation has: its messages come from helpers/gamepad.py) and `long` are not.
test/unit/workspace/test_docs_commands.py checks that each command takes the options that all of them give it.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from gamepad import A, Gamepad
from page import Block, blocks
from terminal import Terminal

from openvla_policy.checkpoint.folder import load_folder
from openvla_ros.sim.scene import Scene
from openvla_training.rlds.reader import read_episodes

PAGE = "docs/tutorials/from-gamepad-to-policy.md"
MARKS = {"workstation", "terminal", "run", "long"}
ELSEWHERE = np.array([0.42, 0.04, 0.02])  # [m] the cube's place in the second episode, free in scene 0
SENTENCE = "lift the red cube"


@pytest.fixture
def workspace(root: Path, tmp_path: Path) -> Path:
    """The repository of a new user, without data and outputs."""
    folder = tmp_path / "openvla"
    folder.mkdir()
    for entry in root.iterdir():
        if entry.name not in ("data", "outputs", ".git"):
            (folder / entry.name).symlink_to(entry)
    return folder


def test_every_block_has_a_known_mark(root: Path) -> None:
    found = blocks(root / PAGE)
    assert {block.mark for block in found} == MARKS, [(b.mark, b.line) for b in found if b.mark not in MARKS]


@pytest.mark.ros
@pytest.mark.timeout(900)
def test_tutorial_runs_as_written(root: Path, workspace: Path) -> None:
    begun = [block for block in blocks(root / PAGE) if block.mark in ("run", "terminal")]
    assert [block.mark for block in begun][:2] == ["terminal", "run"]
    for block in begun:
        if block.mark == "terminal":
            demonstrate(block, workspace)
        else:
            run(block, workspace)

    mine = workspace / "data" / "mine"
    bags = sorted(path for path in mine.iterdir() if (path / "metadata.yaml").exists())
    assert len(bags) == 2 and not list((mine / ".recording").glob("*"))

    data = workspace / "data" / "rlds" / "mine"
    episodes = list(read_episodes(data, split="all"))
    assert sorted(e.episode_id for e in episodes) == [bag.name for bag in bags]
    for episode in episodes:
        assert episode.instruction == SENTENCE and len(episode.images) == len(episode.actions) > 20
        assert np.linalg.norm(episode.actions[:, :3], axis=1).max() <= 0.01 + 1e-6  # 0.1 m/s at 10 Hz
        assert (episode.actions[0, 6], episode.actions[-1, 6]) == (1.0, 0.0)  # starts open, ends with the cube
    assert "lift the red cube" in (data / "1.0.0" / "report.html").read_text("utf-8")

    statistics = load_folder(workspace / "outputs" / "tryout" / "checkpoint").statistics
    assert statistics["mine"].num_transitions == sum(len(e.actions) for e in read_episodes(data))
    summary = json.loads((workspace / "outputs" / "demo-tryout" / "summary.json").read_text("utf-8"))
    (episode,) = summary["episodes"]
    assert summary["failure"] is None and episode["instruction"] == SENTENCE and 1 <= episode["steps"] <= 10


def run(block: Block, workspace: Path) -> None:
    """Run a block in the shell of the first terminal; it must succeed."""
    script = f"source env.bash\n{block.text}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=workspace, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=300, env=os.environ, check=False,
    )  # fmt: skip
    print(f"--- line {block.line}\n{block.text}{done.stdout}")
    assert done.returncode == 0, f"line {block.line} of {PAGE} ends with {done.returncode}:\n{done.stdout[-3000:]}"


def demonstrate(block: Block, workspace: Path) -> None:
    """Steps 2 and 3 for the person: two episodes, the cube moved between them, Ctrl-C."""
    scene = Scene()
    scene.reset(0)
    cube, yaw = scene.object_pose("red")
    scene.close()
    terminal = Terminal(block.text, workspace)
    try:
        domain = int(terminal.wait_for(r"ROS_DOMAIN_ID=(\d+)", 60.0)[1])
        with Gamepad(domain) as pad:
            pad.wait_ready()
            # By the pad's wait, which keeps it publishing: teleop_node reports a silent pad.
            pad.wait(lambda: "the deadman is not held" in terminal.output, 60.0, "teleop_node to receive from the pad")
            pad.start_episode()
            pad.lift(cube, yaw)
            pad.end_episode(A)
            pad.put_down(ELSEWHERE)
            yaw = pad.yaw()
            pad.start_episode()
            pad.lift(ELSEWHERE, yaw)
            pad.end_episode(A)
            terminal.wait_for("2 of 10 successes", 30.0)
        assert terminal.interrupt() == 0
    finally:
        print(f"--- line {block.line}\n{block.text}{terminal.tail()}")
        terminal.close()
