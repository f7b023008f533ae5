"""Starts a stack's nodes as separate processes, watches them, and ends all of them with their process groups.

It does not need the `launch` package, which is on no package registry; launch/sim.launch.py starts the same processes
where ROS 2 is installed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from openvla_ros.bringup.shared_memory import remove_dead_segments

# Signals in order, each with the time to wait for the processes to end [s]: a node may be busy with inference, or with
# closing a bag, when the first one arrives.
StopSequence = Sequence[tuple[signal.Signals, float]]
STOP_SEQUENCE: StopSequence = ((signal.SIGINT, 6.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 5.0))
LOG_TAIL = 12  # lines
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ProcessDied(RuntimeError):
    """A process of the stack ended by itself; the message names it and quotes the end of its log."""


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Supervisor:
    """A set of processes with a log file each. Use as a context manager, from the main thread only.

    Args:
        logs: Folder for the log files.
        environment: Environment variables of the processes.
        stop_sequence: Signals by which `stop` ends them.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str], stop_sequence: StopSequence = STOP_SEQUENCE) -> None:
        self.logs = logs
        self.environment = dict(environment)
        self._stop_sequence = stop_sequence
        self._children: list[_Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start `command` in its own session and process group, with its output in `<logs>/<name>.log`."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,  # Ctrl-C in the terminal reaches this process only; it stops them in order
                    preexec_fn=end_with_parent,
                )
            except OSError as error:
                raise ProcessDied(f"cannot start {name} ({command[0]}): {error.strerror}") from error
        self._children.append(_Child(name, process, log))

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name."""
        return {child.name: child.process.pid for child in self._children}

    def check(self) -> None:
        """Raise ProcessDied when a process has ended by itself."""
        for child in self._children:
            status = child.process.poll()
            if status is None:
                continue
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            lines = log_tail(child.log)
            last = lines[-1] if lines else "its log is empty"
            logged = re.match(r"\[(?:ERROR|FATAL)\] \[[\d.]+\] \[\S+\]: (.*)", last)
            if logged:  # the node states the reason itself: the rest of the log adds nothing
                raise ProcessDied(f"{child.name} {how}: {logged[1]}")
            tail = "\n".join(f"    {line}" for line in lines)
            raise ProcessDied(f"{child.name} {how}: {last}\n  last lines of {child.log}:\n{tail}")

    def stop(self) -> None:
        """End every process and its process group. A second Ctrl-C skips to the next signal of the sequence."""
        for number, timeout in self._stop_sequence:
            try:
                for child in self._children:
                    _signal_group(child, number)
                _wait([child.process for child in self._children], timeout)
            except KeyboardInterrupt:
                continue
        for child in self._children:  # descendants that outlived a process which ended by itself
            _signal_group(child, signal.SIGKILL)
        self._children.clear()
        remove_dead_segments()  # of processes that were killed

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def log_tail(path: Path, lines: int = LOG_TAIL) -> list[str]:
    """The last lines of a log file; empty when there is none."""
    try:
        return path.read_text(errors="replace").rstrip().splitlines()[-lines:]
    except OSError:
        return []


class Interrupted(KeyboardInterrupt):
    """A second stop signal: abandon the current work, but still end the processes."""


def stop_on_signals() -> threading.Event:
    """Install handlers for Ctrl-C, `kill` and a closed terminal, so that work ends at a safe point.

    The second signal raises Interrupted at once.

    Returns:
        The event that the first signal sets.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise Interrupted(signal.Signals(number).name)
        stop.set()
        # os.write: the handler may have interrupted a print, and print is not reentrant.
        os.write(2, f"\n{signal.Signals(number).name}: stopping; repeat to stop at once\n".encode())

    # SIGINT explicitly: a shell that starts a program in the background makes it ignore SIGINT.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)
    return stop


def end_with_parent() -> None:
    """In the child process: ask the kernel for SIGTERM when the parent dies without stopping it (kill -9)."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _signal_group(child: _Child, number: signal.Signals) -> None:
    # Popen has reaped an ended process, but the group keeps its number as long as it has a member.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)


def _wait(processes: Sequence[subprocess.Popen[bytes]], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.02)
