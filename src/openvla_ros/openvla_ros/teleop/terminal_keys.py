"""Single keys from a terminal, without X and over ssh. `close` restores the terminal."""

from __future__ import annotations

import os
import queue
import select
import sys
import termios
import threading
import tty
from typing import Any

NAMES = {"\r": "enter", "\n": "enter", "\x7f": "backspace"}
POLL = 0.1  # [s]


class TerminalKeys:
    """Reads keys in a thread. Ctrl-C remains an interrupt."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Start to read.

        Args:
            descriptor: File descriptor of the terminal; None for standard input.

        Raises:
            ValueError: It is not a terminal.
        """
        self._descriptor = sys.stdin.fileno() if descriptor is None else descriptor
        if not os.isatty(self._descriptor):
            raise ValueError(
                "standard input is not a terminal, so there are no keys: start this program in a terminal of its own"
            )
        self._before: list[Any] | None = termios.tcgetattr(self._descriptor)
        self._keys: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._stop = threading.Event()
        tty.setcbreak(self._descriptor)
        self._thread = threading.Thread(target=self._read, name="keys", daemon=True)
        self._thread.start()

    def drain(self) -> list[str]:
        """The keys since the last call, in the order of typing.

        'enter', 'backspace' and 'escape' are given by name. Other escape sequences are dropped: an arrow key is no
        emergency stop.
        """
        keys = []
        while not self._keys.empty():
            keys.append(self._keys.get())
        return keys

    def close(self) -> None:
        """End the thread and restore the terminal; safe to call twice."""
        self._stop.set()
        if self._before is not None:
            before, self._before = self._before, None
            self._thread.join(1.0)
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def _read(self) -> None:
        while not self._stop.is_set():
            if not select.select([self._descriptor], [], [], POLL)[0]:
                continue
            try:
                data = os.read(self._descriptor, 1024)
            except OSError:  # the terminal was closed
                return
            if not data:
                return
            for key in split_keys(data.decode(errors="ignore")):
                self._keys.put(key)


def split_keys(text: str) -> list[str]:
    """The keys in one read: an escape followed by other characters starts a sequence, alone it is the key."""
    keys: list[str] = []
    index = 0
    while index < len(text):
        character = text[index]
        if character == "\x1b":
            end = _sequence_end(text, index)
            if end == index + 1:
                keys.append("escape")
            index = end
            continue
        keys.append(NAMES.get(character, character))
        index += 1
    return keys


def _sequence_end(text: str, start: int) -> int:
    """Index after the escape sequence (CSI or SS3) at `start`; after the escape itself where there is no sequence."""
    if text[start + 1 : start + 2] not in ("[", "O"):
        return start + 1
    end = start + 2
    while end < len(text) and not ("@" <= text[end] <= "~"):
        end += 1
    return min(end + 1, len(text))
