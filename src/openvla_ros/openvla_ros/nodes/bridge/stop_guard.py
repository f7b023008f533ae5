"""A bridge's last will: commands that another process sends when the bridge is gone, or hangs.

xs_sdk obeys a motor's effort until it hears another one. A bridge that is killed while a hand pushes would leave it
pushing; so a small process of its own holds what is to be said then. It hears of the bridge's end by the end of the
pipe between them, whatever the bridge died of (SIGKILL, SIGTERM, memory), and of one that hangs by the will's time.
It does not outlive a network or a computer that fails: it runs where the bridge runs.
"""

from __future__ import annotations

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
from openvla_ros.robots.adapter import JointSingle, LastWill

READY = "ready"
LOOK = 0.02  # [s] between two looks for a subscriber
HEARD = 2.0  # [s] the robot's driver has to acknowledge the last words


class WillKeeper:
    """The bridge's side: starts the process, and tells it each new will."""

    def __init__(self, node: ManagedNode[BridgeParameters], topics: Sequence[str]) -> None:
        """topics: where wills may be said, relative to the node's namespace. ImportError: without xs_sdk's messages."""
        conversions.message_type(JointSingle)  # not installed: one line of the bridge, not a traceback of the keeper
        self._topics = tuple(topics)
        self._told: LastWill | None = None
        names = [f"{topic}:={node.resolve_topic_name(topic)}" for topic in topics]
        command = [sys.executable, "-m", __name__, f"{node.get_name()}_last_will", node.get_namespace(), *names]
        # In a session of its own: what ends a terminal or a group of processes must not end both.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        node.own(lambda made: made.close(), self)

    def wait(self, timeout: float) -> None:
        """Until the process is there and heard by the robot's driver; RuntimeError when it is not in `timeout` [s]."""
        assert self._process.stdout is not None
        heard, _, _ = select.select([self._process.stdout], [], [], timeout)
        if not heard or self._process.stdout.readline().strip() != READY:
            raise RuntimeError(
                f"nobody hears the keeper of the last will on {', '.join(self._topics)} within {timeout:g} s: is the "
                "robot's driver running?"
            )

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def tell(self, will: LastWill | None) -> None:
        """The will that counts from now on, its time running anew; None: there is nothing to say."""
        if will is self._told:
            return
        self._told = will
        text = {} if will is None else {
            "within": will.within, "commands": [[topic, one.joint, one.value] for topic, one in will.commands]
        }  # fmt: skip
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(text) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # `alive` says so, and the bridge holds

    def close(self) -> None:
        """Let the process say a will that is left, and end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(timeout=2.0 * HEARD)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main(arguments: Sequence[str]) -> None:
    """The keeper's process: node name, namespace, topics as `name in the will:=resolved`. Ends with its input."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # it ends when the bridge has ended
    name, namespace, *topics = arguments
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node(name, namespace=namespace, use_global_arguments=False, start_parameter_services=False)
    kind = conversions.message_type(JointSingle)
    names = dict(topic.split(":=") for topic in topics)
    publishers = {topic: node.create_publisher(kind, resolved, STATE) for topic, resolved in names.items()}
    try:
        while not all(publisher.get_subscription_count() for publisher in publishers.values()):
            if select.select([0], [], [], LOOK)[0]:
                return  # the bridge is gone before it began
        print(READY, flush=True)
        for why, commands in _wills():
            node.get_logger().error(f"{why}: {'; '.join(f'{joint} is sent {value:g}' for _, joint, value in commands)}")
            for topic, joint, value in commands:
                publishers[topic].publish(conversions.command_message(JointSingle(joint, value)))
                publishers[topic].wait_for_all_acked(Duration(seconds=HEARD))
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


def _wills() -> Iterator[tuple[str, list[tuple[str, str, float]]]]:
    """Read wills from standard input; yield why, and (topic, joint, value)s, of each that has to be said."""
    rest, until = b"", 0.0
    will: dict[str, Any] = {}
    while True:
        left = max(0.0, until - time.monotonic()) if will else None
        if not select.select([0], [], [], left)[0]:
            yield "the bridge hangs", will["commands"]
            will = {}
            continue
        data = os.read(0, 65536)
        if not data:
            if will:
                yield "the bridge is gone", will["commands"]
            return
        *lines, rest = (rest + data).split(b"\n")
        if lines:  # only the newest counts
            will = json.loads(lines[-1])
            until = time.monotonic() + will.get("within", 0.0)


if __name__ == "__main__":
    main(sys.argv[1:])
