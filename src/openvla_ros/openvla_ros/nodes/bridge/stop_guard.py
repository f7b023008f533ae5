"""The stop guard: a process that sends the robot's stop orders if the bridge is gone, or hangs.

xs_sdk keeps a motor's effort until it receives another one. A bridge that is killed while a gripper pushes would leave
it pushing; so a small process of its own holds the commands that end that. It notices the end of the bridge by the end
of the pipe between them, whatever the cause (SIGKILL, SIGTERM, out of memory), and a bridge that hangs by the orders'
time. It does not survive the failure of the network or the computer: it runs where the bridge runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rclpy
from rclpy.duration import Duration
from rclpy.signals import SignalHandlerOptions

from openvla_ros.nodes.bridge.parameters import BridgeParameters
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.qos import STATE
from openvla_ros.robots.adapter import JointSingle, StopOrders

READY = "ready"
POLL = 0.02  # [s] between two checks for subscriptions
ACKNOWLEDGE = 2.0  # [s] the robot's driver has to acknowledge a command


class StopGuard:
    """The bridge's side: starts the process, and passes new orders on to it."""

    def __init__(self, node: ManagedNode[BridgeParameters], topics: Sequence[str]) -> None:
        """Start the process.

        Args:
            node: The bridge.
            topics: Topics of the orders, relative to the node's namespace.

        Raises:
            ImportError: The messages of xs_sdk are not installed.
        """
        conversions.message_type(
            JointSingle
        )  # if it is not installed: one line from the bridge, no traceback from there
        self._topics = tuple(topics)
        self._orders: StopOrders | None = None
        names = [f"{topic}:={node.resolve_topic_name(topic)}" for topic in topics]
        command = [sys.executable, "-m", __name__, f"{node.get_name()}_stop_guard", node.get_namespace(), *names]
        # In a session of its own: what ends a terminal or a process group must not end both.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        node.own(lambda made: made.close(), self)

    def wait(self, timeout: float) -> None:
        """Wait until the process runs and the robot's driver subscribes to it.

        Args:
            timeout: Longest wait [s].

        Raises:
            RuntimeError: That is not the case in time.
        """
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not readable or self._process.stdout.readline().strip() != READY:
            raise RuntimeError(
                f"no subscription to {', '.join(self._topics)} of the stop guard within {timeout:g} s: is the robot's "
                "driver running?"
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def update(self, orders: StopOrders | None) -> None:
        """Replace the orders, and start their time again; None: there is nothing to send."""
        if orders is self._orders:
            return
        self._orders = orders
        text = {} if orders is None else {
            "within": orders.within, "commands": [[topic, one.joint, one.value] for topic, one in orders.commands]
        }  # fmt: skip
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `alive` reports that, and the bridge holds
            self._process.stdin.write(json.dumps(text) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Let the process send the present orders, and end it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=2.0 * ACKNOWLEDGE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(arguments: Sequence[str]) -> None:
    """Run the guard's process until its input ends.

    Args:
        arguments: Node name, namespace, and topics as `name in the orders:=resolved`.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends after the bridge
    name, namespace, *topics = arguments
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name, namespace=namespace, use_global_arguments=False, start_parameter_services=False)
    kind = conversions.message_type(JointSingle)
    names = dict(topic.split(":=") for topic in topics)
    publishers = {topic: node.create_publisher(kind, resolved, STATE) for topic, resolved in names.items()}
    try:
        while not all(publisher.get_subscription_count() for publisher in publishers.values()):
            if select.select([0], [], [], POLL)[0]:
                return  # the bridge ended before it began
        print(READY, flush=True)
        for reason, commands in _due_orders():
            sent = "; ".join(f"{joint} is sent {value:g}" for _, joint, value in commands)
            node.get_logger().error(f"{reason}: {sent}")
            for topic, joint, value in commands:
                publishers[topic].publish(conversions.command_message(JointSingle(joint, value)))
                publishers[topic].wait_for_all_acked(Duration(seconds=ACKNOWLEDGE))
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _due_orders() -> Iterator[tuple[str, list[tuple[str, str, float]]]]:
    """Read orders from standard input; yield the reason and the (topic, joint, value)s of those that are due."""
    rest, until = b"", 0.0
    orders: dict[str, Any] = {}
    while True:
        left = max(0.0, until - time.monotonic()) if orders else None
        if not select.select([0], [], [], left)[0]:
            yield "the bridge hangs", orders["commands"]
            orders = {}
            continue
        data = os.read(0, 65536)
        if not data:
            if orders:
                yield "the bridge is gone", orders["commands"]
            return
        *lines, rest = (rest + data).split(b"\n")
        if lines:  # only the newest orders count
            orders = json.loads(lines[-1])
            until = time.monotonic() + orders.get("within", 0.0)


if __name__ == "__main__":
    main(sys.argv[1:])
