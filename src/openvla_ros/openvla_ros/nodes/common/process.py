"""The life of a node process: init, spin, signals, exit code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

import rclpy
from rclpy.exceptions import ROSInterruptException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from openvla_ros.nodes.common.lifecycle_node import ManagedNode, RCLError, one_line

SHUTDOWN_GRACE = 8.0  # [s] a process that is still busy so long after SIGTERM or SIGINT ends itself


def run(node_class: Callable[[], ManagedNode], args: list[str] | None = None) -> int:
    """Run a node until it is told to end; the exit status. Ends quietly on SIGINT and SIGTERM, busy or not."""
    interrupted = interrupt_once()
    try:
        rclpy.init(args=args)
    except RCLError as error:
        print(f"cannot start: {one_line(error)}", file=sys.stderr)
        return 2
    node: ManagedNode | None = None
    threading.Thread(target=_end_when_stuck, daemon=True).start()
    try:
        node = node_class()
        executor = SingleThreadedExecutor()  # the experimental EventsExecutor keeps half a core busy when idle
        executor.add_node(node)
        if node.value("autostart"):
            node._autostart()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException, ROSInterruptException):
        pass
    except Exception as error:
        gone = isinstance(error, RCLError) and not rclpy.ok()  # the context, under a publish, about 1 shutdown in 12
        if not (gone or interrupted()):
            raise
    finally:
        if node is not None:
            node.close()
        rclpy.try_shutdown()
        if node is not None:
            node.destroy_node()
    return node.exit_code if node is not None else 0  # told to end before it had begun


def main_of(node_class: Callable[[], ManagedNode]) -> NoReturn:
    """Body of a node's `main`: run, then leave without waiting for library threads."""
    code = run(node_class)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # daemon threads inside torch or OpenGL can abort an interpreter that is taking itself apart


def _end_when_stuck() -> None:
    while rclpy.ok():
        time.sleep(0.2)
    time.sleep(SHUTDOWN_GRACE)
    os._exit(143)


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
