"""A stack of its own for a command: the processes of the process table in a free ROS domain, and a client."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from openvla_ros.bringup.process_table import RECORDER, ProcessSpec, argv, bringup
from openvla_ros.bringup.ros_domain import DomainLease, ros_environment
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.evaluation.stack_client import StackClient

START_TIMEOUT = 120.0  # [s]; the policy imports torch and loads a checkpoint, on a small busy machine

Overrides = Mapping[str, Mapping[str, object]]


class Stack:
    """A simulator stack. `with Stack(...) as client:` starts the processes and ends them.

    Construct it in the main thread: the kernel ends the processes when the thread that started them ends.

    Args:
        logs: Folder for the processes' output.
        overrides: Node name -> parameter -> value.
        policy: Start the policy node.
        extra: Further managed nodes, such as a recorder.
        frames: The client keeps camera images.
        stop: Ends what the client does, as Ctrl-C does.
    """

    def __init__(
        self,
        logs: Path,
        overrides: Overrides,
        *,
        policy: bool,
        extra: Sequence[ProcessSpec] = (),
        frames: bool = True,
        stop: threading.Event | None = None,
    ) -> None:
        self._lease = DomainLease()
        environment = ros_environment(self._lease.domain)
        # The client runs in this process and must discover nodes in the same range as they do.
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = environment["ROS_AUTOMATIC_DISCOVERY_RANGE"]
        self.supervisor = Supervisor(logs, environment)
        self.client: StackClient | None = None
        self._policy, self._frames, self._stop = policy, frames, stop
        self._recorder = any(spec.executable == RECORDER for spec in extra)
        self._specs = bringup("sim", overrides, policy=policy, extra=extra)

    def start(self) -> StackClient:
        """Start the processes and the client, without waiting until they are ready."""
        try:
            for spec in self._specs:
                self.supervisor.start(spec.name, argv(spec))
            self.client = StackClient(
                self._lease.domain,
                policy=self._policy,
                recorder=self._recorder,
                frames=self._frames,
                watch=self.supervisor.check,
                stop=self._stop,
            )
        except BaseException:
            self.stop()
            raise
        return self.client

    def stop(self) -> None:
        """End the client, then the processes; safe to call twice."""
        try:
            if self.client is not None:
                self.client.close()
        finally:
            self.supervisor.stop()
            self._lease.close()

    def __enter__(self) -> StackClient:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
