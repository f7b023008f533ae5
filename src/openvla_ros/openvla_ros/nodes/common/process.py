"""Process of a node: initialisation, spinning, signals, exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

import rclpy
from rclpy.exceptions import ROSInterruptException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from openvla_ros.nodes.common.lifecycle_node import ManagedNode, RCLError, one_line

SHUTDOWN_GRACE = 8.0  # [s] a process that is still busy this long after SIGTERM or SIGINT ends itself


def run(node_class: Callable[[], ManagedNode[Any]], args: list[str] | None = None) -> int:
    """Run a node until SIGINT or SIGTERM, which end it without a traceback, busy or not.

    Args:
        node_class: Creates the node.
        args: Command line; None for that of the process.

    Returns:
        The exit status.
    """
    interrupted = interrupt_once()
    try:
        rclpy.init(args=args)
    except RCLError as error:
        print(f"cannot start: {one_line(error)}", file=sys.stderr)
        return 2
    node: ManagedNode[Any] | None = None
    threading.Thread(target=_end_when_stuck, daemon=True).start()
    try:
        node = node_class()
        executor = SingleThreadedExecutor()  # the experimental EventsExecutor keeps half a core busy when idle
        executor.add_node(node)
        node.autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException, ROSInterruptException):
        pass
    except Exception as error:
        shut_down = isinstance(error, RCLError) and not rclpy.ok()  # during a publish, in about 1 shutdown of 12
        if not (shut_down or interrupted()):
            raise
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
        if node is not None:
            node.destroy_node()
    return node.exit_code if node is not None else 0  # interrupted before the node existed


def main_of(node_class: Callable[[], ManagedNode[Any]]) -> NoReturn:
    """Body of a node's `main`: run, then exit without waiting for threads of libraries."""
    code = run(node_class)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # daemon threads of torch or OpenGL can abort the interpreter's shutdown


def _end_when_stuck() -> None:
    while rclpy.ok():
        time.sleep(0.2)
    time.sleep(SHUTDOWN_GRACE)
    os._exit(143)


def interrupt_once() -> Callable[[], bool]:
    """Let the first SIGINT raise KeyboardInterrupt and ignore the following ones, as the process is ending already.

    Call it before `rclpy.init`, which chains its own handler to this one. A process that does not end is ended by
    SIGTERM.

    Returns:
        A function that says whether SIGINT was received: an interrupt inside a call from C++ (a message that is being
        deserialized) may surface as another exception.
    """
    received = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if not received.is_set():
            received.set()
            raise KeyboardInterrupt

    if threading.current_thread() is threading.main_thread():  # only it may install handlers
        signal.signal(signal.SIGINT, interrupt)
    return received.is_set
