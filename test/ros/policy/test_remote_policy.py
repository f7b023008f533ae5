"""The policy node with its policy at a server in another process: what stops configure, the loop, an outage."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openvla_msgs.msg import ActionChunk, PolicyStatus, SafetyState
from openvla_msgs.srv import SetInstruction
from sensor_msgs.msg import Image
from serving import free_port, serve_process

from openvla_policy.contract.observation import Observation
from openvla_policy.runtime.load import load_policy
from openvla_policy.serving import connect
from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

pytestmark = pytest.mark.ros


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Give `serve(folder, *arguments)`: a running openvla-serve and its port; ended with the test."""
    with ExitStack() as started:
        count = 0

        def serve(folder: Path, *arguments: str) -> Any:
            nonlocal count
            count += 1
            return started.enter_context(serve_process(folder, *arguments, log=tmp_path / f"serve_{count}.log"))

        yield serve


def errors(output: str) -> list[str]:
    return [line.split("]: ", 1)[1] for line in output.splitlines() if "[ERROR]" in line or "Traceback" in line]


def test_an_unsuitable_server_fails_configure_in_one_line(
    serve, start_node, ros_node, tiny_checkpoint, wait_for, tmp_path
):
    token = tmp_path / "token"
    token.write_text("secret\n")
    (tmp_path / "other").write_text("guess")
    named = ("--token-file", str(token), "--frame", "tool0", "--period", "0.1")
    _, port = serve(tiny_checkpoint, *named)
    ros_node.create_publisher(Image, "/camera/image_raw", STREAM)
    url, absent = f"ws://127.0.0.1:{port}", f"http://127.0.0.1:{free_port()}"
    right = {"server.url": url, "server.token_file": str(token), "frame": "tool0", "period": "0.1"}
    cases = [
        ({"server.url": absent}, f"the policy server does not answer as it should: {absent}/metadata: ConnectError .*; "
                                 "start it .openvla-serve CHECKPOINT"),
        ({"server.token_file": str(tmp_path / "other")}, f"{url}/ws: 401, a bearer token is needed, .*; .* or set "
                                                         "'server.url' and 'server.token_file'"),
        ({"server.token_file": "/nowhere"}, "parameter 'server.token_file': cannot read /nowhere: No such file"),
        ({"unnorm_key": "bridge_orig"}, f"unnorm_key 'bridge_orig' is unknown to the policy server {url}, which serves "
                                        ".* with: sim; set 'unnorm_key' to one of them"),
        ({"frame": "base"}, f"the policy server {url} .* has actions of frame tool0, parameter 'frame' says base; "),
        ({"period": "0.2"}, "has actions of period 0.1 s, parameter 'period' says 0.2 s; set it to the server's, or "
                            "start the server with --period 0.2"),
    ]  # fmt: skip
    running = []
    for parameters, message in cases:
        given = {"policy.backend": "remote", "autostart": "true", **right, **parameters}
        pairs = [x for name, value in given.items() for x in ("-p", f"{name}:={value}")]
        running.append((start_node("policy_node", "--ros-args", *pairs), message))
        wait_for(lambda: not running[-1][0].running, 120.0, "the node to give up")
    for process, message in running:
        assert process.popen.returncode == 1
        lines = errors(process.output)
        assert len(lines) == 1 and re.search(message, lines[0]), process.output


def test_the_policy_continues_after_an_outage(
    serve, start_stack, tiny_checkpoint, listen, spin_until, settle, call, tmp_path
):
    process, port = serve(tiny_checkpoint, "--vocabulary", "actions")
    url = f"ws://127.0.0.1:{port}"
    running = start_stack(
        {
            "sim_node": {"real_time_factor": 2.0, "camera.rate": 5.0},
            "bridge_node": {"control_mode": "blocking"},
            "policy_node": {"policy.backend": "remote", "server.url": url, "server.retry": 0.2, "server.timeout": 20.0},
        }
    )
    status = listen(PolicyStatus, "policy/status", LATCHED)
    safe, chunks = listen(SafetyState, "safety/state", LATCHED), listen(ActionChunk, "policy/action_chunk", STATE)
    spin_until(lambda: status and status[-1].reason.startswith("no instruction"), 180.0, "the policy")
    assert (status[-1].backend, status[-1].statistics_name) == (f"remote {url}", "sim")
    assert status[-1].checkpoint == str(tiny_checkpoint)
    call(SetInstruction, "set_instruction", instruction="lift the red cube")
    spin_until(lambda: len(chunks) >= 3, 60.0, "actions")
    chunk = chunks[-1]
    assert (chunk.source, chunk.header.frame_id, chunk.statistics_name) == ("policy", "panda_link0", "sim")
    assert 0 < chunk.latency_inference < chunk.latency_total and chunk.statistics_hash

    process.send_signal(signal.SIGKILL)
    spin_until(lambda: status[-1].state == "error", 30.0, "the outage to be reported")
    assert status[-1].reason.startswith(f"prediction failed: {url}/ws: "), status[-1].reason
    spin_until(lambda: safe and safe[-1].state != SafetyState.EXECUTING, 20.0, "the robot to stand still")
    settle(0.3)  # what was sent before the outage may come after the word of it
    before = len(chunks)
    settle(1.0)
    assert len(chunks) == before and running["policy_node"].running

    with serve_process(tiny_checkpoint, port=port, log=tmp_path / "again.log"):
        spin_until(lambda: len(chunks) >= before + 3 and status[-1].state != "error", 90.0, "actions again")
        assert chunks[-1].instruction == "lift the red cube"
        logged = errors(running["policy_node"].output)
        assert len(logged) == 1 and "prediction failed" in logged[0], "an outage is logged once"


def summary_of(start_process, wait_for, output: Path, *arguments: str) -> dict[str, Any]:
    process = start_process("module:openvla_ros.evaluation.demo", "--output", str(output), "--no-video", *arguments)
    wait_for(lambda: not process.running, 550, "the demo to end")
    assert process.popen.returncode == 0, process.output
    return json.loads((output / "summary.json").read_text())


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_demo_ends_remotely_as_it_does_locally(serve, start_process, wait_for, tmp_path, root):
    checkpoint = root / "checkpoints" / "openvla-tiny-sim"
    _, port = serve(checkpoint, "--vocabulary", "actions")
    here = load_policy(checkpoint, vocabulary="actions", device="cpu")
    there = [connect(f"{scheme}://127.0.0.1:{port}", timeout=30.0) for scheme in ("http", "ws")]
    for seed in range(8):
        frame = Observation(np.random.default_rng(seed).integers(0, 256, (240, 320, 3), dtype=np.uint8))
        expected = here.predict(frame, "lift the red cube").actions
        assert all((client.predict(frame, "lift the red cube").actions == expected).all() for client in there)
    seeds = ("--episodes", "2", "--seed", "3")
    local = summary_of(start_process, wait_for, tmp_path / "local", *seeds)
    remote = summary_of(start_process, wait_for, tmp_path / "remote", *seeds, "--server", f"ws://127.0.0.1:{port}")
    assert "at ws://" in remote["policy"]["name"]
    for ours, theirs in zip(local["episodes"], remote["episodes"], strict=True):
        assert (ours["seed"], ours["outcome"], ours["lifted"]) == (theirs["seed"], theirs["outcome"], theirs["lifted"])
