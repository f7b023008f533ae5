"""Counters of the server, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections import defaultdict


class Metrics:
    """Requests by status, and seconds by stage. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._actions = 0

    def count(self, status: int) -> None:
        """One more answered request."""
        with self._lock:
            self._requests[status] += 1

    def observe(self, timings: dict[str, float]) -> None:
        """One more action, with its wall-clock seconds by stage."""
        with self._lock:
            self._actions += 1
            for stage, seconds in timings.items():
                self._seconds[stage] += seconds

    def render(self) -> str:
        """The page /metrics answers with."""
        with self._lock:
            lines = ["# HELP openvla_requests_total Requests to /act.", "# TYPE openvla_requests_total counter"]
            lines += [f'openvla_requests_total{{status="{s}"}} {n}' for s, n in sorted(self._requests.items())]
            lines += ["# HELP openvla_actions_total Actions computed.", "# TYPE openvla_actions_total counter"]
            lines += [f"openvla_actions_total {self._actions}"]
            lines += ["# HELP openvla_stage_seconds_total Wall-clock time by stage of the actions computed."]
            lines += ["# TYPE openvla_stage_seconds_total counter"]
            lines += [f'openvla_stage_seconds_total{{stage="{s}"}} {t:.6f}' for s, t in sorted(self._seconds.items())]
        return "\n".join(lines) + "\n"
