"""Brings managed nodes up in order, monitors them, and shuts all of them down when one fails.

Exit status: 0 after SIGINT or SIGTERM, 1 when a node failed; the last line in the log names the node and its reason.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future

from openvla_ros.nodes.common.declared_parameters import DeclaredParameters
from openvla_ros.nodes.common.lifecycle_node import RCLError
from openvla_ros.nodes.common.process import interrupt_once
from openvla_ros.nodes.common.qos import ROSOUT
from openvla_ros.parameters import NodeParameters, parameter

RETRY_PERIOD = 2.0  # [s] an answer that takes longer counts as lost while a node is being discovered
ERROR = Log.ERROR if isinstance(Log.ERROR, int) else int.from_bytes(Log.ERROR, "little")  # IDL `byte` constants


@dataclass(frozen=True)
class LifecycleManagerParameters(NodeParameters):
    """Parameters of the lifecycle manager."""

    node: ClassVar[str] = "lifecycle_manager"

    managed_nodes: tuple[str, ...] = parameter(
        ("sim_node", "bridge_node", "policy_node"), "Nodes in the order in which they are brought up"
    )
    start_timeout: float = parameter(60.0, "Longest wait for a node to appear and answer", "s", 1.0, 3600.0)
    transition_timeout: float = parameter(
        300.0, "Longest wait for a transition (a policy loads its weights)", "s", 1.0, 7200.0
    )
    watch_period: float = parameter(1.0, "Time between two checks of the nodes", "s", 0.1, 60.0)
    watch_timeout: float = parameter(10.0, "A node that does not answer for longer is lost", "s", 0.5, 600.0)


class NodeFailed(Exception):
    """A managed node failed; the message names it and says why."""


class LifecycleManager(Node):
    """Client of the managed nodes' lifecycle services. It spins itself, so its code reads top to bottom."""

    def __init__(self) -> None:
        super().__init__(LifecycleManagerParameters.node)
        declared = DeclaredParameters(self, LifecycleManagerParameters, self._parameter_overrides)
        if declared.rejected:
            raise ValueError("; ".join(declared.rejected.values()))
        self._config = declared.values
        self.nodes = [name for name in declared.values.managed_nodes if name]
        self._errors: dict[str, str] = {}
        self._loggers = f"{self.get_namespace().strip('/').replace('/', '.')}.".removeprefix(".")
        self.create_subscription(Log, "/rosout", self._on_log, ROSOUT)
        self._change = {n: self.create_client(ChangeState, f"{n}/change_state") for n in self.nodes}
        self._get = {n: self.create_client(GetState, f"{n}/get_state") for n in self.nodes}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_log(self, message: Log) -> None:
        # A logger's name begins with the node's namespace, with dots: only the errors of this stack count.
        name = message.name.removeprefix(self._loggers)
        if message.level >= ERROR and message.name == self._loggers + name:
            self._errors[name] = message.msg

    def bring_up(self) -> None:
        """Configure all nodes in order, then activate all in order."""
        for name in self.nodes:
            self._discover(name)
            self._transition(name, Transition.TRANSITION_CONFIGURE, "configure")
        for name in self.nodes:
            self._transition(name, Transition.TRANSITION_ACTIVATE, "activate")
        self.get_logger().info(f"active: {', '.join(self.nodes)}")

    def _discover(self, name: str) -> None:
        """Wait until a node is present and its answers arrive.

        A service may be discovered before it has discovered its clients, and its answers are then lost. Repeating a
        request for the state is harmless; a lost answer to a transition would look like a node that hangs.
        """
        requests: list[tuple[float, Future]] = []

        def answered() -> bool:
            due = not requests or time.monotonic() - requests[-1][0] > RETRY_PERIOD
            if due and self._change[name].service_is_ready() and self._get[name].service_is_ready():
                requests.append((time.monotonic(), self._get[name].call_async(GetState.Request())))
            return any(future.done() for _, future in requests)

        if not self._spin_until(answered, self._config.start_timeout):
            waited = self._config.start_timeout
            why = "did not answer" if requests else "did not appear"
            raise NodeFailed(f"'{name}' {why} within {waited:g} s; is its process running?")

    def watch(self) -> None:
        """Monitor the nodes.

        Raises:
            NodeFailed: A node is lost or no longer active.
        """
        answered = dict.fromkeys(self.nodes, time.monotonic())
        while True:
            self._spin_until(lambda: False, self._config.watch_period)
            requests = {n: c.call_async(GetState.Request()) for n, c in self._get.items() if c.service_is_ready()}
            self._spin_until(partial(_all_done, requests.values()), self._config.watch_period)
            for name, future in requests.items():
                if future.done():
                    answered[name] = time.monotonic()
                    state = future.result().current_state
                    if state.id in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_FINALIZED):
                        raise NodeFailed(f"'{name}' is no longer up: it is {state.label}{self._why(name)}")
                else:
                    self._get[name].remove_pending_request(future)
            for name, when in answered.items():
                if time.monotonic() - when > self._config.watch_timeout:
                    raise NodeFailed(f"'{name}' is lost: no answer for {self._config.watch_timeout:g} s")

    def take_down(self) -> None:
        """Deactivate and clean up the nodes that answer, in reverse order; the robot holds."""
        steps = (
            (State.PRIMARY_STATE_ACTIVE, Transition.TRANSITION_DEACTIVATE),
            (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_CLEANUP),
        )
        for state, transition in steps:
            for name in reversed(self.nodes):
                if not self._get[name].service_is_ready():
                    continue
                request = self._get[name].call_async(GetState.Request())
                if self._spin_until(request.done, 3.0) and request.result().current_state.id == state:
                    self._spin_until(self._change[name].call_async(_request(transition)).done, 3.0)

    def _transition(self, name: str, transition: int, label: str) -> None:
        self._errors.pop(name, None)
        future = self._change[name].call_async(_request(transition))
        absent_since: float | None = None

        def over() -> bool:
            nonlocal absent_since
            if self._change[name].service_is_ready():
                absent_since = None
            elif absent_since is None:
                absent_since = time.monotonic()
            lost = absent_since is not None and time.monotonic() - absent_since > 2.0
            return future.done() or lost

        self._spin_until(over, self._config.transition_timeout)
        if not future.done():
            raise NodeFailed(f"'{name}' did not {label}: its process ended or hangs{self._why(name)}")
        if not future.result().success:
            self._spin_until(lambda: name in self._errors, 2.0)
            raise NodeFailed(f"'{name}' did not {label}{self._why(name)}")

    def _why(self, name: str) -> str:
        return f": {self._errors[name]}" if name in self._errors else ""

    def _spin_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        return True


def _all_done(futures: Iterable[Future]) -> bool:
    return all(future.done() for future in futures)


def _request(transition: int) -> ChangeState.Request:
    request = ChangeState.Request()
    request.transition.id = int(transition)
    return request


def run(args: list[str] | None = None) -> int:
    """Bring up, monitor, shut down.

    Args:
        args: Command line; None for that of the process.

    Returns:
        The exit status.
    """
    interrupted = interrupt_once()
    try:
        rclpy.init(args=args)
        manager = LifecycleManager()
    except (ValueError, RCLError) as error:
        print(f"lifecycle_manager: {error}", file=sys.stderr)
        return 2
    try:
        try:
            manager.bring_up()
            manager.watch()
        except NodeFailed as failure:
            manager.take_down()
            manager.get_logger().fatal(f"bringup failed: {failure}")
            return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        if not (interrupted() or (isinstance(error, RCLError) and not rclpy.ok())):
            raise
    finally:
        rclpy.try_shutdown()
        manager.destroy_node()  # frees its shared memory
    return 0


def main() -> None:
    """Entry point."""
    code = run()
    sys.stderr.flush()
    os._exit(code)  # a second SIGINT would kill an interpreter that is shutting down


if __name__ == "__main__":
    main()
