"""Shared fixtures: files, a ROS domain per test, node processes, and waiting for conditions."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from rclpy.node import Node

# Jazzy's messages read this once, at import; without it they accept (and publish) fields of a wrong type.
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"

# No deadline for an example of a property: the machine may be busy.
settings.register_profile("no_deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no_deadline")

ROOT = Path(__file__).resolve().parent.parent
# A node that is busy with inference handles the first signal only afterwards.
STOP_SEQUENCE = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need an NVIDIA GPU on a machine without one."""
    if Path("/dev/nvidiactl").exists():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU; this machine has none"))


@pytest.fixture(scope="session", autouse=True)
def no_shared_memory_of_killed_nodes() -> Iterator[None]:
    """Remove what nodes killed by tests, of this session or an earlier one, left in /dev/shm."""
    from openvla_ros.bringup.shared_memory import remove_dead_segments

    remove_dead_segments()
    yield
    remove_dead_segments()


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the workspace."""
    return ROOT


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """Folder of the files that tests read."""
    return ROOT / "test" / "fixtures"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give `small_disk(mib)`: the folder of a file system of its own with that size."""
    folder = tmp_path / "disk"

    def mount(mib: int) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)]
        try:
            mounted = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("needs mount")
        if mounted.returncode:
            pytest.skip(f"may not mount a tmpfs here: {mounted.stderr.strip()}")
        return folder

    yield mount
    if folder.is_mount():  # a process may still use the folder: detached, it is removed with the process
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def wait_for(condition: Callable[[], Any], timeout: float = 60.0, what: str = "the condition") -> Any:
    """Poll until `condition()` is true and return its value; fail naming `what` after `timeout` seconds."""
    end = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            pytest.fail(f"waited {timeout:g} s for {what}")
        time.sleep(0.02)


@pytest.fixture(name="wait_for", scope="session")
def wait_for_fixture() -> Callable[..., Any]:
    """Give tests `wait_for(condition, timeout, what)`; a fixture, since test modules cannot import conftest."""
    return wait_for


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Give a ROS domain that no other test, worker or demo on this machine uses; it is set in the environment."""
    from openvla_ros.bringup.ros_domain import DomainLease

    lease = DomainLease()
    monkeypatch.setenv("ROS_DOMAIN_ID", str(lease.domain))
    yield lease.domain
    lease.close()


@pytest.fixture
def ros_node(ros_domain: int) -> Iterator[Node]:
    """Give an rclpy node in the test's own domain and context; spin it with `spin_until`."""
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node = rclpy.create_node("test_node", context=context)
    yield node
    node.destroy_node()
    rclpy.try_shutdown(context=context)


@pytest.fixture
def spin_until(ros_node: Node) -> Iterator[Callable[..., Any]]:
    """Give `spin_until(condition, timeout, what)`: `wait_for` that also serves the callbacks of `ros_node`."""
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor(context=ros_node.context)
    executor.add_node(ros_node)

    def spin_until(condition: Callable[[], Any], timeout: float = 60.0, what: str = "the condition") -> Any:
        def spin_then_ask() -> Any:
            executor.spin_once(timeout_sec=0.02)
            return condition()

        return wait_for(spin_then_ask, timeout, what)

    yield spin_until
    executor.shutdown()


@pytest.fixture
def listen(ros_node: Node) -> Callable[..., list[Any]]:
    """Give `listen(type, topic, qos)`: the list of all messages received since, newest last."""
    from history import whole

    def listen(kind: type, topic: str, qos: Any) -> list[Any]:
        got: list[Any] = []
        ros_node.create_subscription(kind, topic, got.append, whole(qos))
        return got

    return listen


@dataclass
class Process:
    """A process started by a test, with its log (both streams)."""

    popen: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self) -> int:
        """Send the signals of STOP_SEQUENCE; return the exit status (negative: the signal that ended it)."""
        for number, timeout in STOP_SEQUENCE:
            if not self.running:
                break
            os.killpg(self.popen.pid, number)
            try:
                self.popen.wait(timeout)
            except subprocess.TimeoutExpired:
                continue
        # Descendants that it left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        return self.popen.wait()


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Give `start_process(command, *arguments, **environment)`; all are ended with the test.

    `command` is a program on PATH or `module:NAME` for `python -m NAME`. Their output is printed when the test fails.
    """
    from openvla_ros.bringup.supervisor import end_with_parent

    started: list[Process] = []

    def start(command: str, *arguments: str, **environment: str) -> Process:
        argv: Sequence[str]
        if command.startswith("module:"):
            argv = [sys.executable, "-m", command.removeprefix("module:")]
        else:
            program = shutil.which(command)
            assert program, f"{command} is not on PATH; source env.bash"
            argv = [program]
        log = tmp_path / f"process_{len(started)}_{Path(argv[-1]).name}.log"
        with log.open("wb") as stream:
            popen = subprocess.Popen(
                [*argv, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
                start_new_session=True,
                preexec_fn=end_with_parent,  # a killed test run leaves no process behind
            )
        started.append(Process(popen, log))
        return started[-1]

    yield start
    for process in reversed(started):
        status = process.stop()
        print(f"--- {process.log.name} (status {status})\n{process.output}")


@pytest.fixture
def start_node(start_process: Callable[..., Process], ros_domain: int) -> Callable[..., Process]:
    """Give `start_node("policy_node", "--ros-args", …)`: one of openvla_ros' nodes, in the test's ROS domain."""

    from openvla_ros.bringup.process_table import node_module

    def start(name: str, *arguments: str, **environment: str) -> Process:
        return start_process(f"module:{node_module(name)}", *arguments, **environment)

    return start
