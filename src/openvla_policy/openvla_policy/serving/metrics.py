"""Counters of the server, in Prometheus' text format.

A few counters and two histograms: less text here than the glue that the `prometheus_client` package needs, whose
process-wide registry would add up the servers of one process.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

SECONDS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCHES = (1, 2, 4, 8, 16, 32)


class _Histogram:
    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        at = next((i for i, bound in enumerate(self.bounds) if value <= bound), len(self.bounds))
        self.counts[at] += 1
        self.sum += value

    def lines(self, name: str, labels: str = "") -> list[str]:
        total, lines = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{{labels}{"," if labels else ""}le="{bound}"}} {total}')
        tail = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{tail} {self.sum:.6f}", f"{name}_count{tail} {total}"]


class Metrics:
    """Requests by route and status, what was late or dropped, batches, latencies. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, int], int] = defaultdict(int)
        self._seconds: dict[str, float] = defaultdict(float)
        self._latency: dict[str, _Histogram] = defaultdict(lambda: _Histogram(SECONDS))
        self._batches = _Histogram(BATCHES)
        self._queue = self._connections = self._actions = self._late = self._dropped = 0

    def count(self, route: str, status: int) -> None:
        """One more request came to its end; 504 is a late one."""
        with self._lock:
            self._requests[route, status] += 1
            self._late += status == 504

    def count_dropped(self) -> None:
        """A request whose client was gone before its answer."""
        with self._lock:
            self._dropped += 1

    def observe(self, route: str, timings: dict[str, float]) -> None:
        """One more action is sent, with its wall-clock seconds by stage."""
        with self._lock:
            self._actions += 1
            self._latency[route].add(timings.get("total", 0.0))
            for stage, seconds in timings.items():
                self._seconds[stage] += seconds

    def observe_batch(self, size: int) -> None:
        """One pass through the policy, with so many requests in it."""
        with self._lock:
            self._batches.add(size)

    def queue_length(self, waiting: int) -> None:
        """So many requests wait now."""
        with self._lock:
            self._queue = waiting

    def connected(self, change: int) -> None:
        """A WebSocket was opened (1) or closed (-1)."""
        with self._lock:
            self._connections += change

    def totals(self) -> dict[str, int]:
        """Requests, actions, late and dropped so far."""
        with self._lock:
            requests = sum(self._requests.values())
            return {"requests": requests, "actions": self._actions, "late": self._late, "dropped": self._dropped}

    def render(self) -> str:
        """The page /metrics answers with."""
        lines: list[str] = []

        def family(name: str, kind: str, text: str, samples: list[str]) -> None:
            lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}", *samples])

        with self._lock:
            requests = [
                f'openvla_requests_total{{route="{route}",status="{status}"}} {n}'
                for (route, status), n in sorted(self._requests.items())
            ]
            family("openvla_requests_total", "counter", "Requests for an action, by route and HTTP status.", requests)
            for name, text, value in (
                ("actions", "Actions sent.", self._actions),
                ("late", "Requests not answered with an action because their deadline had passed.", self._late),
                ("dropped", "Requests whose client was gone before the answer.", self._dropped),
            ):
                family(f"openvla_{name}_total", "counter", text, [f"openvla_{name}_total {value}"])
            for name, text, value in (
                ("queue_length", "Requests that wait for the policy.", self._queue),
                ("connections", "Open WebSockets.", self._connections),
            ):
                family(f"openvla_{name}", "gauge", text, [f"openvla_{name} {value}"])
            family("openvla_batch_size", "histogram", "Requests computed in one pass.",
                   self._batches.lines("openvla_batch_size"))  # fmt: skip
            latencies = [
                line
                for route, histogram in sorted(self._latency.items())
                for line in histogram.lines("openvla_latency_seconds", f'route="{route}"')
            ]
            family("openvla_latency_seconds", "histogram", "From a request's receipt to its answer.", latencies)
            stages = [
                f'openvla_stage_seconds_total{{stage="{stage}"}} {seconds:.6f}'
                for stage, seconds in sorted(self._seconds.items())
            ]
            family("openvla_stage_seconds_total", "counter", "Wall-clock time of the actions sent, by stage.", stages)
        return "\n".join(lines) + "\n"
