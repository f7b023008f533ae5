"""What a node takes of /dev/shm it gives back when it ends; what a killed one leaves is removed, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.srv import GetState

from openvla_ros.bringup.shared_memory import remove_dead_segments
from openvla_ros.bringup.supervisor import Supervisor

pytestmark = pytest.mark.ros
# (Readers map the segments of their writers: what a process owns are the locks that it has open.)
OWNED = re.compile(r"/dev/shm/fastrtps_[0-9a-f]{16}_el")
MIB = 2**20


def segments(pid: int) -> set[Path]:
    """The shared memory that a running process owns, with the locks."""
    locks = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:  # closed meanwhile
            continue
        if OWNED.fullmatch(target):
            locks.add(Path(target))
    return locks | {lock.with_name(lock.name.removesuffix("_el")) for lock in locks}


def existing(paths: set[Path]) -> set[Path]:
    return {path for path in paths if path.exists()}


@pytest.mark.parametrize("node", ["bridge_node", "policy_node", "recorder_node", "sim_node", "teleop_node"])
def test_a_terminated_node_leaves_no_segment(node: str, start_node: Any, call: Callable[..., Any]) -> None:
    process = start_node(node, "--ros-args")
    assert call(GetState, f"{node}/get_state").current_state.label == "unconfigured"
    owned = segments(process.popen.pid)
    assert owned and existing(owned) == owned
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(20) == 0, process.output
    assert existing(owned) == set()


def test_only_segments_of_killed_processes_are_removed(start_node: Any, call: Callable[..., Any]) -> None:
    killed, living = start_node("bridge_node", "--ros-args"), start_node("teleop_node", "--ros-args")
    for node in ("bridge_node", "teleop_node"):
        call(GetState, f"{node}/get_state")
    left, kept = segments(killed.popen.pid), segments(living.popen.pid) | segments(os.getpid())
    assert left and kept and not left & kept
    assert sum(path.stat().st_size for path in left) > MIB
    killed.popen.kill()
    killed.popen.wait(10)
    remove_dead_segments()  # (as may another session of tests, or a demo that ends, on this machine)
    assert existing(left) == set() and existing(kept) == kept
    assert call(GetState, "teleop_node/get_state").current_state.label == "unconfigured", "it still answers"


def test_a_supervisor_cleans_up_after_killed_processes(
    tmp_path: Path, ros_domain: int, wait_for: Callable[..., Any]
) -> None:
    ladder = ((signal.SIGKILL, 10.0),)
    with Supervisor(tmp_path, os.environ, ladder) as supervisor:
        supervisor.start("bridge_node", [sys.executable, "-m", "openvla_ros.nodes.bridge.bridge_node"])
        pid = supervisor.pids["bridge_node"]
        wait_for(lambda: existing(segments(pid)), 30.0, "its shared memory")
        owned = segments(pid)
    assert existing(owned) == set()


def test_other_files_are_not_removed(tmp_path: Path) -> None:
    for name in ("fastrtps_0123456789abcdef_el", "fastrtps_port7010", "fastrtps_port7010_el", "fastrtps_notes_el"):
        (tmp_path / name).write_bytes(b"x")
    before = sorted(path.name for path in tmp_path.iterdir())
    assert remove_dead_segments(tmp_path) == 0  # (the first one's segment is about to be made)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    (tmp_path / "fastrtps_0123456789abcdef").write_bytes(bytes(100))
    assert remove_dead_segments(tmp_path) == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == before[1:]
