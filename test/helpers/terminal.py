"""A pseudo terminal for a command that an operator runs, watches and ends with Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import threading
import time
from pathlib import Path

ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """`bash -c command` on a pseudo terminal; keeps its output."""

    def __init__(self, command: str, cwd: Path, size: tuple[int, int] = (40, 120)) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        self.popen = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command], cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm"}, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )  # fmt: skip
        os.close(theirs)
        self._bytes = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                more = os.read(self._ours, 65536)
            except OSError:  # the other end is closed
                return
            if not more:
                return
            self._bytes += more

    @property
    def output(self) -> str:
        """The output so far, without colours and cursor motions."""
        return ANSI.sub("", bytes(self._bytes).decode(errors="replace"))

    def wait_for(self, pattern: str, seconds: float) -> re.Match[str]:
        """Wait until the output matches `pattern`; AssertionError with its tail after `seconds`, or at the end."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.output)):
            running = self.popen.poll() is None
            assert running and time.monotonic() < end, (
                f"no {pattern!r} in the output (running: {running}): {self.tail()}"
            )
            time.sleep(0.05)
        return found

    def tail(self) -> str:
        """The end of the output."""
        return self.output[-3000:]

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._ours, keys.encode())

    def interrupt(self, seconds: float = 40.0) -> int:
        """Type Ctrl-C and wait for the end; the exit status."""
        self.type("\x03")
        return self.popen.wait(seconds)

    def close(self) -> None:
        """End the command; safe to call twice."""
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGTERM)
            try:
                self.popen.wait(15.0)
            except subprocess.TimeoutExpired:
                os.killpg(self.popen.pid, signal.SIGKILL)
                self.popen.wait()
        if self._ours >= 0:
            self._reader.join(2.0)
            os.close(self._ours)
            self._ours = -1
