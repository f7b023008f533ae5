"""Ctrl-C that ends a process once. `ros2 launch` without a terminal passes on what the process group heard already."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType


def interrupt_once() -> Callable[[], bool]:
    """Let the first SIGINT raise KeyboardInterrupt, and those after it nothing: the process is ending already.

    To be called before rclpy.init, which puts its own handler before this one. Returns what says whether one was heard:
    an interrupt inside a call from C++ (a message that is being deserialized) comes out as whatever that makes of it.
    A process that does not end is ended by SIGTERM.
    """
    heard = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not heard.is_set():
            heard.set()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # signals are its matter
        signal.signal(signal.SIGINT, interrupt)
    return heard.is_set
