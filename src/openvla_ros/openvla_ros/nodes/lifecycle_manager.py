"""Brings managed nodes up in order, watches them, and takes all of them down when one fails.

Exit status: 0 when told to end, 1 when a node failed; the last line in the log names the node and its reason.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import rclpy
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Log
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future

from openvla_ros.nodes.common.lifecycle_node import RCLError, _descriptor
from openvla_ros.nodes.common.process import interrupt_once
from openvla_ros.parameters import Parameter, check, unknown_key

PARAMETERS = (
    Parameter("managed_nodes", ["sim_node", "bridge_node", "policy_node"], "Nodes in the order of bringing them up"),
    Parameter("start_timeout", 60.0, "How long a node may take to appear and answer", "s", 1.0, 3600.0),
    Parameter(
        "transition_timeout", 300.0, "How long a transition may take (a policy loads its weights)", "s", 1.0, 7200.0
    ),
    Parameter("watch_period", 1.0, "How often the nodes are looked at", "s", 0.1, 60.0),
    Parameter("watch_timeout", 10.0, "A node that does not answer for so long is lost", "s", 0.5, 600.0),
)

ASK_AGAIN = 2.0  # [s] an answer that takes longer is taken for lost while a node is being met

ERROR = Log.ERROR if isinstance(Log.ERROR, int) else int.from_bytes(Log.ERROR, "little")  # IDL `byte` constants


class NodeFailed(Exception):
    """A managed node did not do what it should; the message names it and says why."""


class LifecycleManager(Node):
    """Client of the managed nodes' lifecycle services. It spins itself, so its code reads top to bottom."""

    def __init__(self) -> None:
        super().__init__("lifecycle_manager")
        rows = {row.name: row for row in PARAMETERS}
        given = {k: v.value for k, v in self._parameter_overrides.items()}
        for name in given:
            if name not in rows and not name.startswith(("use_sim_time", "start_type_description", "qos_overrides.")):
                raise ValueError(unknown_key(name, rows, self.get_name()))
        self._values: dict[str, Any] = {}
        for row in PARAMETERS:
            self._values[row.name] = check(row, given.get(row.name, row.default))
            self.declare_parameter(row.name, self._values[row.name], _descriptor(row), ignore_override=True)
        self.nodes = [n for n in self._values["managed_nodes"] if n]
        self._errors: dict[str, str] = {}
        self._loggers = self.get_namespace().strip("/").replace("/", ".") + "."
        self._loggers = self._loggers.removeprefix(".")
        latched = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.create_subscription(Log, "/rosout", self._on_log, latched)
        self._change = {n: self.create_client(ChangeState, f"{n}/change_state") for n in self.nodes}
        self._get = {n: self.create_client(GetState, f"{n}/get_state") for n in self.nodes}
        self._executor = SingleThreadedExecutor()
        self._executor.add_node(self)

    def _on_log(self, message: Log) -> None:
        # A logger is named by the node's namespace, with dots: of two stacks, only the errors of this one count.
        name = message.name.removeprefix(self._loggers)
        if message.level >= ERROR and message.name == self._loggers + name:
            self._errors[name] = message.msg

    def bring_up(self) -> None:
        """Configure all nodes in order, then activate all in order."""
        for name in self.nodes:
            self._meet(name)
            self._transition(name, Transition.TRANSITION_CONFIGURE, "configure")
        for name in self.nodes:
            self._transition(name, Transition.TRANSITION_ACTIVATE, "activate")
        self.get_logger().info(f"active: {', '.join(self.nodes)}")

    def _meet(self, name: str) -> None:
        """Wait until a node is there and its answers arrive.

        A service can be known here before it knows its clients, whose answers are then lost. Asking for the state anew
        costs nothing; a lost answer to a transition would look like a node that hangs.
        """
        asked: list[tuple[float, Future]] = []

        def answered() -> bool:
            due = not asked or time.monotonic() - asked[-1][0] > ASK_AGAIN
            if due and self._change[name].service_is_ready() and self._get[name].service_is_ready():
                asked.append((time.monotonic(), self._get[name].call_async(GetState.Request())))
            return any(future.done() for _, future in asked)

        if not self._spin_until(answered, self._values["start_timeout"]):
            waited = self._values["start_timeout"]
            why = "did not answer" if asked else "did not appear"
            raise NodeFailed(f"'{name}' {why} within {waited:g} s; is its process running?")

    def watch(self) -> None:
        """Look at the nodes until one is lost or no longer active, which raises NodeFailed."""
        seen = dict.fromkeys(self.nodes, time.monotonic())
        while True:
            self._spin_until(lambda: False, self._values["watch_period"])
            asked = {n: c.call_async(GetState.Request()) for n, c in self._get.items() if c.service_is_ready()}
            self._spin_until(lambda a=asked: all(f.done() for f in a.values()), self._values["watch_period"])
            for name, future in asked.items():
                if future.done():
                    seen[name] = time.monotonic()
                    state = future.result().current_state
                    if state.id in (State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_FINALIZED):
                        raise NodeFailed(f"'{name}' is no longer up: it is {state.label}{self._why(name)}")
                else:
                    self._get[name].remove_pending_request(future)
            for name, when in seen.items():
                if time.monotonic() - when > self._values["watch_timeout"]:
                    raise NodeFailed(f"'{name}' is lost: no answer for {self._values['watch_timeout']:g} s")

    def take_down(self) -> None:
        """Deactivate and clean up whatever answers, in reverse order; the robot holds."""
        steps = (
            (State.PRIMARY_STATE_ACTIVE, Transition.TRANSITION_DEACTIVATE),
            (State.PRIMARY_STATE_INACTIVE, Transition.TRANSITION_CLEANUP),
        )
        for state, transition in steps:
            for name in reversed(self.nodes):
                if not self._get[name].service_is_ready():
                    continue
                asked = self._get[name].call_async(GetState.Request())
                if self._spin_until(asked.done, 3.0) and asked.result().current_state.id == state:
                    self._spin_until(self._change[name].call_async(_request(transition)).done, 3.0)

    def _transition(self, name: str, transition: int, label: str) -> None:
        self._errors.pop(name, None)
        future = self._change[name].call_async(_request(transition))
        gone = [0.0]

        def over() -> bool:
            if future.done():
                return True
            gone[0] = 0.0 if self._change[name].service_is_ready() else gone[0] or time.monotonic()
            return bool(gone[0]) and time.monotonic() - gone[0] > 2.0

        self._spin_until(over, self._values["transition_timeout"])
        if not future.done():
            raise NodeFailed(f"'{name}' did not {label}: its process ended or hangs{self._why(name)}")
        if not future.result().success:
            self._spin_until(lambda: name in self._errors, 2.0)
            raise NodeFailed(f"'{name}' did not {label}{self._why(name)}")

    def _why(self, name: str) -> str:
        return f": {self._errors[name]}" if name in self._errors else ""

    def _spin_until(self, condition: Any, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.1))
        return True


def _request(transition: int) -> ChangeState.Request:
    request = ChangeState.Request()
    request.transition.id = int(transition)
    return request


def run(args: list[str] | None = None) -> int:
    """Bring up, watch, take down; the exit status."""
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
        manager.destroy_node()  # or its shared memory stays behind
    return 0


def main() -> None:
    """Entry point."""
    code = run()
    sys.stderr.flush()
    os._exit(code)  # an interpreter that takes itself apart dies of a second SIGINT


if __name__ == "__main__":
    main()
