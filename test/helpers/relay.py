"""A driver between a device and the stack, as a process that fails on a signal as drivers do.

    python relay.py sensor_msgs/msg/Image FROM TO

SIGUSR1: it goes on sending its last message, with its old stamp; SIGUSR2: likewise, with fresh stamps; SIGHUP: it works
again. SIGSTOP silences it. To pictures it adds a sensor's noise: the simulator that takes them has none. Of an
ActionChunk the old stamp is the observation's: a policy that goes on answering its last picture.
"""

from __future__ import annotations

import contextlib
import importlib
import random
import signal
import sys
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException

from openvla_ros.nodes.common.qos import STREAM  # reliable, as chunks are

WORKS, OLD, FRESH = "works", "old", "fresh"


def main(kind: str, source: str, to: str) -> None:
    """Pass messages of `source` on."""
    package, _, name = kind.split("/")
    message_type = getattr(importlib.import_module(f"{package}.msg"), name)
    rclpy.init()
    node = rclpy.create_node("relay_" + to.replace("/", "_"))
    publisher = node.create_publisher(message_type, to, STREAM)
    mode, newest = WORKS, None

    def switch(new: str) -> None:
        nonlocal mode
        mode = new

    for number, new in ((signal.SIGUSR1, OLD), (signal.SIGUSR2, FRESH), (signal.SIGHUP, WORKS)):
        signal.signal(number, lambda *_, new=new: switch(new))

    def forward(message: Any) -> None:
        nonlocal newest
        if newest is None or mode == WORKS:
            newest = message
            if name == "Image":
                newest.data[random.randrange(len(newest.data))] ^= 1
        elif name == "ActionChunk":
            message.observation_stamp = newest.observation_stamp
            newest = message
        elif mode == FRESH:
            newest.header.stamp = message.header.stamp
        publisher.publish(newest)

    node.create_subscription(message_type, source, forward, STREAM)
    with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(node)


if __name__ == "__main__":
    main(*sys.argv[1:])
