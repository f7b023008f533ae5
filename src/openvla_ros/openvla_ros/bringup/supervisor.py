"""Starts the stack's nodes as separate processes, watches over them, and leaves none behind.

Works without the `launch` package, which no registry carries for bare machines; a workstation may as well use
launch/sim.launch.py, which starts the same table of processes.
"""

from __future__ import annotations

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

# Asked, told, made to: a node may be busy in inference (or closing a bag) when the first signal arrives.
Ladder = Sequence[tuple[signal.Signals, float]]
STOP_LADDER: Ladder = ((signal.SIGINT, 6.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 5.0))
LOG_TAIL = 12  # lines
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


class ProcessDied(RuntimeError):
    """A process of the stack ended by itself; the message names it and the last lines of its log."""


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Supervisor:
    """Owns a set of processes. Use as a context manager, from one thread (the main thread)."""

    def __init__(self, logs: Path, environment: Mapping[str, str], ladder: Ladder = STOP_LADDER) -> None:
        self.logs = logs
        self._ladder = ladder
        self.environment = dict(environment)
        self._children: list[_Child] = []
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start `command` in a session (and process group) of its own, its output in `<logs>/<name>.log`."""
        log = self.logs / f"{name}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=self.environment,
                    start_new_session=True,  # a Ctrl-C in the terminal reaches us only; we stop them in order
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
            last = lines[-1] if lines else "it wrote nothing"
            said = re.match(r"\[(?:ERROR|FATAL)\] \[[\d.]+\] \[\S+\]: (.*)", last)
            if said:  # a node that knows why needs no further lines
                raise ProcessDied(f"{child.name} {how}: {said[1]}")
            shown = "\n".join(f"    {line}" for line in lines)
            raise ProcessDied(f"{child.name} {how}: {last}\n  last lines of {child.log}:\n{shown}")

    def stop(self) -> None:
        """End every process with its whole group. An impatient second Ctrl-C moves on to the next signal."""
        for number, patience in self._ladder:
            try:
                for child in self._children:
                    _signal_group(child, number)
                _wait([child.process for child in self._children], patience)
            except KeyboardInterrupt:
                continue
        for child in self._children:  # what an ended process may have left in its group
            _signal_group(child, signal.SIGKILL)
        self._children.clear()
        remove_dead_segments()  # of those that were made to end, or died

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def log_tail(path: Path, lines: int = LOG_TAIL) -> list[str]:
    """The last lines of a log that is not empty."""
    try:
        return path.read_text(errors="replace").rstrip().splitlines()[-lines:]
    except OSError:
        return []


class Interrupted(KeyboardInterrupt):
    """A person insists: leave what is in hand, but still end the processes."""


def stop_on_signals() -> threading.Event:
    """An event that Ctrl-C, `kill` and a closed terminal set, so that work in hand is finished at a safe point.

    The second such signal raises Interrupted at once, for who is in a hurry.
    """
    stop = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if stop.is_set():
            raise Interrupted(signal.Signals(number).name)
        stop.set()
        # os.write, since print is not to be used in a handler that may have interrupted a print.
        os.write(2, f"\n{signal.Signals(number).name}: stopping; once more to hurry\n".encode())

    # SIGINT too: a shell that starts a program in the background may have made it deaf to Ctrl-C.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handle)
    return stop


def end_with_parent() -> None:
    """In the child: be told to end should the parent die without stopping it (kill -9)."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _signal_group(child: _Child, number: signal.Signals) -> None:
    # Popen has reaped an ended child, but the group keeps its number for as long as it has a member.
    try:
        os.killpg(child.process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def _wait(processes: Sequence[subprocess.Popen[bytes]], patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline and any(process.poll() is None for process in processes):
        time.sleep(0.02)
