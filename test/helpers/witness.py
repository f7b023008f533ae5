"""Records when targets arrive, the gate's states and why the policy waits: a process beside the bridge.

    python witness.py FILE

One line of JSON each, with the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from geometry_msgs.msg import PoseStamped
from history import whole
from openvla_msgs.msg import PolicyStatus, SafetyState
from rclpy.executors import ExternalShutdownException

from openvla_ros.nodes.common.qos import COMMAND, LATCHED


def main(file: str) -> None:
    """Record until the process is ended."""
    rclpy.init()
    node = rclpy.create_node("witness")
    with Path(file).open("w", buffering=1) as stream:

        def write(what: str, **fields: Any) -> None:
            stream.write(json.dumps({"what": what, "at": time.monotonic(), **fields}) + "\n")

        node.create_subscription(PoseStamped, "robot/target_pose", lambda _: write("target"), whole(COMMAND))
        node.create_subscription(
            SafetyState, "safety/state", lambda m: write("gate", state=m.state, reason=m.reason), whole(LATCHED)
        )
        node.create_subscription(
            PolicyStatus, "policy/status", lambda m: write("policy", state=m.state, reason=m.reason), whole(LATCHED)
        )
        with contextlib.suppress(KeyboardInterrupt, ExternalShutdownException):
            rclpy.spin(node)


class Seen:
    """What a witness has recorded so far."""

    def __init__(self, file: Path) -> None:
        self._file, self._read = file, 0
        self.targets: list[float] = []  # times of arrival [s, monotonic]
        self.gate: list[dict[str, Any]] = []
        self.policy: list[dict[str, Any]] = []

    def update(self) -> None:
        """Read what was added."""
        if not self._file.exists():
            return
        with self._file.open() as stream:
            stream.seek(self._read)
            text = stream.read()
        whole = text[: text.rfind("\n") + 1]
        self._read += len(whole)
        for line in whole.splitlines():
            event = json.loads(line)
            if event["what"] == "target":
                self.targets.append(event["at"])
            else:
                (self.gate if event["what"] == "gate" else self.policy).append(event)


if __name__ == "__main__":
    main(*sys.argv[1:])
