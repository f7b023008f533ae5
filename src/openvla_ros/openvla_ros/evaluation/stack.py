"""A whole stack of its own: the processes of bringup/process_table in a ROS domain nobody else uses, and a client."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from openvla_ros.bringup.process_table import ProcessSpec, argv, bringup
from openvla_ros.bringup.ros_domain import DomainLease, ros_environment
from openvla_ros.bringup.supervisor import Supervisor
from openvla_ros.evaluation.session import Session

START_LIMIT = 120.0  # [s]; the policy imports torch and reads a checkpoint, on a busy small machine

Overrides = Mapping[str, Mapping[str, object]]


class Stack:
    """Start with `with Stack(...) as stack:`; `stack.session` talks to it once `wait_ready` has returned.

    Construct it in the main thread: the processes are told to end when the thread that started them does.
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
        # Of the variables that decide who is heard, the client (this process) must share its children's.
        os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = environment["ROS_AUTOMATIC_DISCOVERY_RANGE"]
        self.supervisor = Supervisor(logs, environment)
        self.session: Session | None = None
        self._policy, self._frames, self._stop = policy, frames, stop
        self._recorder = any(spec.executable == "recorder_node" for spec in extra)
        self._specs = bringup("sim", overrides, policy=policy, extra=extra)

    def start(self) -> Session:
        """Start every process and the client; does not wait for them."""
        try:
            for spec in self._specs:
                self.supervisor.start(spec.name, argv(spec))
            self.session = Session(
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
        return self.session

    def stop(self) -> None:
        """End the client, then the processes; safe to call twice."""
        try:
            if self.session is not None:
                self.session.close()
        finally:
            self.supervisor.stop()
            self._lease.close()

    def __enter__(self) -> Session:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
