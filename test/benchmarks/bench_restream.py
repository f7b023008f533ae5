"""`make bench`: the rate at which the bridge restreams targets, beside the requested rate.

The bridge is a process of its own in streaming control; this process is policy and robot. Every 0.2 s a new action
changes the direction, so that the target never rests and the bridge computes a stop within the limits at each step.
Measures the targets that arrive here, the intervals between them, and the bridge's CPU time. Prints a table and writes
outputs/bench/restream.json.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["ROS_PYTHON_CHECK_FIELDS"] = ""  # as in a bringup; message classes read it when imported

from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import ActionChunk, SafetyState
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message
from rich.console import Console
from rich.table import Table

from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import action_messages, conversions
from openvla_ros.nodes.common.qos import LATCHED, STATE, STREAM

ROOT = Path(__file__).parents[2]
RATES = (50.0, 200.0, 500.0, 1000.0)  # [Hz]
SECONDS = 2.0 if os.environ.get("QUICK") else 10.0
PERIOD = 0.2  # [s] between two actions
TICK = os.sysconf("SC_CLK_TCK")
START = Pose.of((0.5, 0.0, 0.3), (1.0, 0.0, 0.0, 0.0))
# The cone makes the bridge look ahead at each step; speeds of a Franka.
LIMITS = {"cone.angle": 0.8, "limit.speed": 0.3, "limit.turn": 1.2, "limit.acceleration": 3.0, "watchdog.state": 2.0}


@pytest.mark.timeout(1200)
def test_restream_rates(start_node: Callable[..., Any], ros_node: Any) -> None:
    arm = Arm(ros_node)
    rows = [arm.measure(rate, start_node) for rate in RATES]
    table = Table("requested [Hz]", "arrived [Hz]", "share", "interval p50 / p99 / max [ms]", "CPU of a core", "held")
    for row in rows:
        between = " / ".join(f"{row[name]:.2f}" for name in ("p50_ms", "p99_ms", "most_ms"))
        share = f"{100 * row['arrived_hz'] / row['asked_hz']:.0f} %"
        cells = (f"{row['asked_hz']:g}", f"{row['arrived_hz']:.1f}", share, between, f"{100 * row['core']:.0f} %")
        table.add_row(*cells, f"{row['held']:g}")
    Console(width=100).print(table)
    machine = {"cores": os.cpu_count(), "architecture": platform.machine(), "load": os.getloadavg()}
    output = ROOT / "outputs" / "bench"
    output.mkdir(parents=True, exist_ok=True)
    (output / "restream.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    assert all(row["arrived_hz"] > 0.0 for row in rows)


class Arm:
    """Policy and robot in one: publishes the last target as its pose at 100 Hz, and actions along a circle."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._newest = b""
        self._arrived: list[float] = []
        self._states: list[Any] = []
        node.create_subscription(PoseStamped, "robot/target_pose", self._on_target, 100, raw=True)
        node.create_subscription(SafetyState, "safety/state", self._states.append, LATCHED)
        self._pose = node.create_publisher(PoseStamped, "robot/ee_pose", STREAM)
        self._chunk = node.create_publisher(ActionChunk, "policy/action_chunk", STATE)
        node.create_timer(0.01, self._publish_pose)

    def _on_target(self, data: bytes) -> None:
        self._arrived.append(time.monotonic())
        self._newest = data

    def _publish_pose(self) -> None:
        pose = START
        if self._newest:  # parsed here, not for each of up to 1000 targets a second
            pose, _ = conversions.read_pose(deserialize_message(self._newest, PoseStamped))
        self._pose.publish(conversions.pose_message(pose, "panda_link0", time.time_ns()))

    def _spin(self, seconds: float, done: Callable[[], Any] = lambda: False) -> bool:
        end = time.monotonic() + seconds
        while not (finished := bool(done())) and time.monotonic() < end:
            self._executor.spin_once(timeout_sec=max(0.0, min(0.01, end - time.monotonic())))
        return finished

    def measure(self, rate: float, start_node: Callable[..., Any]) -> dict[str, float]:
        """Keep the target of a new bridge in motion for SECONDS.

        Args:
            rate: Requested rate of the targets [Hz].
            start_node: The fixture.

        Returns:
            A row of the JSON file [Hz, ms, CPU cores].
        """
        self._newest = b""
        self._states.clear()
        given = {**LIMITS, "restream_rate": rate, "control_mode": "streaming", "enabled": "true", "autostart": "true"}
        pairs = [x for name, value in given.items() for x in ("-p", f"{name}:={value}")]
        bridge = start_node("bridge_node", "--ros-args", *pairs)
        up = (SafetyState.READY, SafetyState.EXECUTING)
        ready = self._spin(60.0, lambda: self._states and self._states[-1].state in up)
        assert ready and self._spin(5.0, self._chunk.get_subscription_count), "the bridge is not ready"
        for step in range(5):  # accelerate
            self._act(step)
        self._arrived.clear()
        self._states.clear()
        used, began = _cpu(bridge.popen.pid), time.monotonic()
        for step in range(round(SECONDS / PERIOD)):
            self._act(step)
        took, used = time.monotonic() - began, _cpu(bridge.popen.pid) - used
        arrived, states = list(self._arrived), list(self._states)
        bridge.stop()
        self._spin(0.5)
        intervals = 1e3 * np.diff(arrived)
        p50, p99, most = (float(np.percentile(intervals, p)) for p in (50, 99, 100))
        return {
            "asked_hz": rate, "arrived_hz": len(arrived) / took, "p50_ms": p50, "p99_ms": p99, "core": used / took,
            "most_ms": most, "held": sum(s.state not in up for s in states),
        }  # fmt: skip

    def _act(self, step: int) -> None:
        """Publish one action of the circle and wait for its period."""
        angle = 2 * math.pi * step / 20
        row = (0.02 * math.cos(angle), 0.02 * math.sin(angle), 0.0, 0.0, 0.0, 0.05 * math.cos(angle), 1.0)
        now = time.time_ns()
        self._chunk.publish(
            action_messages.chunk_message(
                [row],
                frame="panda_link0",
                at_ns=now,
                observation=conversions.time_message(now),
                sequence=step,
                source="policy",
                instruction="circle",
                period=PERIOD,
            )
        )
        self._spin(PERIOD)


def _cpu(pid: int) -> float:
    """Return the CPU time that a process has used so far [s]."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK
