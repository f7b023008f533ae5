"""`openvla-demo` and `openvla-collect` as commands: real processes and topics, the scripted expert."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from openvla_ros.bringup.process_table import node_module
from openvla_ros.evaluation.demo import Options

pytestmark = pytest.mark.ros


def descendants(pid: int) -> dict[int, str]:
    """Processes started by `pid`, with their command lines."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            try:
                command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except FileNotFoundError:
                continue
            found |= {int(child): command} | descendants(int(child))
    return found


def nodes_of(pid: int) -> dict[str, int]:
    return {
        name: child
        for child, command in descendants(pid).items()
        for name in ("sim_node", "bridge_node", "policy_node", "recorder_node", "lifecycle_manager")
        if node_module(name) in command
    }


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def demo(start_process: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    def start(*arguments: str) -> Any:
        return start_process("module:openvla_ros.evaluation.demo", "--output", str(tmp_path / "out"), *arguments)

    return start


def test_expert_succeeds_in_two_episodes(
    demo: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    process = demo("--policy", "expert", "--episodes", "2", "--seed", "5")
    wait_for(lambda: not process.running, 200, "the demo to end")
    assert process.popen.returncode == 0, process.output
    out = tmp_path / "out"
    summary = json.loads((out / "summary.json").read_text())
    assert [episode["seed"] for episode in summary["episodes"]] == [1_000_005, 1_000_006]
    for episode in summary["episodes"]:
        assert episode["target"] in episode["instruction"]
        assert episode["outcome"] == "success" and episode["lifted"] == [episode["target"]]
        assert 3 <= episode["steps"] <= 30 and episode["latency_s"]["mean"] is not None
    assert summary["success_rate"] == {
        "successes": 2, "trials": 2, "value": 1.0, "standard_error": 0.0, "interval_95": [0.3424, 1.0],
    }  # fmt: skip
    assert summary["failure"] is None and summary["control_mode"] == "blocking"
    assert {"python", "mujoco", "openvla_ros"} <= summary["versions"].keys()
    assert "waiting for service sim/reset" in process.output, "the start is silent"
    assert process.output.splitlines()[-1].startswith("success 2/2"), process.output

    frames = imageio_ffmpeg.read_frames(str(out / "demo.mp4"))
    video = next(frames)
    assert video["codec"].startswith("h264") and video["size"] == (960, 540) and "yuv420p" in video["pix_fmt"]
    pictures = [np.frombuffer(frame, np.uint8).reshape(540, 960, 3)[:, :540] for frame in frames]
    assert len(pictures) > sum(episode["steps"] for episode in summary["episodes"])
    assert np.abs(pictures[0].astype(int) - pictures[15].astype(int)).mean() > 1.0, "the image never changes"
    sheet = Image.open(out / "contact_sheet.png")
    assert sheet.width > 900 and np.asarray(sheet).std() > 20


def test_ctrl_c_ends_every_process_and_keeps_results(
    demo: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    process = demo("--policy", "expert", "--episodes", "50")
    wait_for(lambda: "episode 1/50" in process.output or not process.running, 120, "the first episode to end")
    pids = nodes_of(process.popen.pid)
    assert {"sim_node", "bridge_node"} <= pids.keys(), process.output
    os.kill(process.popen.pid, signal.SIGINT)
    wait_for(lambda: not process.running, 60, "the demo to end")
    assert process.popen.returncode == 130, process.output
    assert not [name for name, pid in pids.items() if running(pid)]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 1 <= summary["success_rate"]["trials"] < 50
    assert next(imageio_ffmpeg.read_frames(str(tmp_path / "out" / "demo.mp4")))["codec"].startswith("h264")


def test_dead_node_ends_the_demo_and_is_named(
    demo: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    process = demo("--policy", "expert", "--episodes", "50", "--no-video")
    wait_for(lambda: "episode 1/50" in process.output or not process.running, 120, "the first episode to end")
    pids = nodes_of(process.popen.pid)
    os.kill(pids["bridge_node"], signal.SIGKILL)
    wait_for(lambda: not process.running, 60, "the demo to end")
    assert process.popen.returncode == 1
    assert "openvla-demo: bridge_node was killed by SIGKILL" in process.output
    assert not [name for name, pid in pids.items() if running(pid)]
    assert "bridge_node was killed" in json.loads((tmp_path / "out" / "summary.json").read_text())["failure"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--instruction", "lift the purple cube"), "'lift the purple cube' names none of the cubes; name one of red"),
        (("--episodes", "0"), "episodes is 0; it must be 1 to"),
        (("--checkpoint", "/nonexistent/folder"), "--checkpoint /nonexistent/folder: there is no such folder"),
        (("--server-token-file", "token"), "--server-token-file needs --server"),
        (("--config", "/nonexistent.yaml"), "cannot read the evaluation settings /nonexistent.yaml"),
    ],
)
def test_wrong_option_is_refused_in_one_line(
    demo: Callable[..., Any], wait_for: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    process = demo(*arguments)
    wait_for(lambda: not process.running, 60, "the demo to refuse")
    assert process.popen.returncode == 1
    assert message in process.output and len(process.output.splitlines()) == 1


def test_server_options_become_policy_node_parameters(tmp_path: Path) -> None:
    options = Options(server="ws://gpu:8000", server_token_file=tmp_path / "token")
    assert options.node_parameters()["policy_node"] == {
        "policy.backend": "remote", "server.url": "ws://gpu:8000", "server.token_file": str(tmp_path / "token"),
    }  # fmt: skip


def test_collection_resumes_where_it_stopped(
    start_process: Callable[..., Any], tmp_path: Path, wait_for: Callable[..., Any]
) -> None:
    def collect(episodes: int) -> Any:
        process = start_process(
            "module:openvla_ros.evaluation.collect", "--episodes", str(episodes), "--output", str(tmp_path / "demos"),
            "--real-time-factor", "2",
        )  # fmt: skip
        wait_for(lambda: not process.running, 200, "the collection to end")
        assert process.popen.returncode == 0, process.output
        return process

    def recorded() -> list[dict[str, Any]]:
        return [json.loads(line) for line in (tmp_path / "demos" / "episodes.jsonl").read_text().splitlines()]

    collect(1)
    first = recorded()
    assert [entry["seed"] for entry in first] == [0] and Path(first[0]["bag"]).is_dir()
    collect(2)
    both = recorded()
    assert both[0] == first[0] and [entry["seed"] for entry in both] == [0, 1]
    for entry in both:
        assert (Path(entry["bag"]) / "metadata.yaml").is_file()
        assert entry["target"] in entry["instruction"] and entry["outcome"] == "success"
