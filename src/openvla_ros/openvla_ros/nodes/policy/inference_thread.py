"""A thread that runs one job at a time, so that inference does not block the executor.

Jobs are submitted and results delivered in the executor's thread, so that the node needs no locks.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from rclpy.node import Node


class InferenceThread:
    """Runs `work(job)` in its own thread and calls `done(job, result or exception)` in the executor's.

    Attributes:
        busy: Whether a job is running.
    """

    def __init__(self, node: Node, work: Callable[[Any], Any], done: Callable[[Any, Any], None]) -> None:
        """Start the thread.

        Args:
            node: Node in whose executor results are delivered.
            work: Runs a job, in the thread.
            done: Receives a job and its result or exception, in the executor.
        """
        self._node, self._work, self._done = node, work, done
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self._guard = node.create_guard_condition(self._deliver)
        self.busy = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)
        self._thread.start()

    def submit(self, job: Any) -> None:
        """Start a job.

        Args:
            job: What `work` is called with.

        Raises:
            RuntimeError: Another job is running.
        """
        if self.busy:
            raise RuntimeError("the inference thread is busy")
        self.busy = True
        self._jobs.put(job)

    def close(self) -> None:
        """Accept no more jobs. A job that is running ends by itself, and its result is dropped."""
        self._closed = True
        self._jobs.put(None)
        self._node.destroy_guard_condition(self._guard)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = self._work(job)
            except Exception as error:
                result = error
            self._results.put((job, result))
            if not self._closed:
                self._guard.trigger()

    def _deliver(self) -> None:
        while not self._results.empty():
            self.busy = False
            self._done(*self._results.get())
