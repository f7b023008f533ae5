"""The server's metrics, by prometheus-client. One registry a server, so that servers of one process stay apart."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.35, 0.5, 1.0, 2.0, 5.0, 10.0)  # [s]
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32)  # [requests]

disable_created_metrics()  # a second series for each counter, which no dashboard here reads


class Metrics:
    """Requests by route and status, deadlines missed, batches, latencies. Safe to use from several threads."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "openvla_requests",
            "Requests for an action, by route and HTTP status.",
            ("route", "status"),
            registry=registry,
        )
        self._actions = Counter("openvla_actions", "Actions sent.", registry=registry)
        self._late = Counter("openvla_late", "Requests refused because their deadline had passed.", registry=registry)
        self._dropped = Counter(
            "openvla_dropped", "Requests whose client disconnected before the answer.", registry=registry
        )
        self._queue = Gauge("openvla_queue_length", "Requests waiting for the policy.", registry=registry)
        self._connections = Gauge("openvla_connections", "Open WebSockets.", registry=registry)
        self._batches = Histogram(
            "openvla_batch_size", "Requests computed in one pass.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._latency = Histogram(
            "openvla_latency_seconds", "Time from receipt to answer.", ("route",), buckets=LATENCY_BUCKETS,
            registry=registry,
        )  # fmt: skip
        self._stages = Counter(
            "openvla_stage_seconds", "Wall-clock time of the actions sent, by stage.", ("stage",), registry=registry
        )

    def count(self, route: str, status: int) -> None:
        """Count a finished request; status 504 means that its deadline had passed."""
        self._requests.labels(route, status).inc()
        if status == 504:
            self._late.inc()

    def count_dropped(self) -> None:
        """Count a request whose client disconnected before its answer."""
        self._dropped.inc()

    def observe(self, route: str, timings: Mapping[str, float]) -> None:
        """Record a sent action with its wall-clock time by stage [s]."""
        self._actions.inc()
        self._latency.labels(route).observe(timings.get("total", 0.0))
        for stage, seconds in timings.items():
            self._stages.labels(stage).inc(seconds)

    def observe_batch(self, size: int) -> None:
        """Record one pass through the policy with `size` requests."""
        self._batches.observe(size)

    def set_queue_length(self, waiting: int) -> None:
        """Set how many requests wait for the policy."""
        self._queue.set(waiting)

    def set_connections(self, count: int) -> None:
        """Set how many WebSockets are open."""
        self._connections.set(count)

    def value(self, name: str, **labels: object) -> float:
        """The value of one series, such as `value("openvla_requests_total", route="/act", status=200)`; 0 if absent."""
        return self.registry.get_sample_value(name, {key: str(label) for key, label in labels.items()}) or 0.0

    def totals(self) -> dict[str, int]:
        """Count requests, actions, late and dropped requests since the start."""
        finished = sum(
            sample.value
            for family in self._requests.collect()
            for sample in family.samples
            if sample.name == "openvla_requests_total"
        )
        others = {name: int(self.value(f"openvla_{name}_total")) for name in ("actions", "late", "dropped")}
        return {"requests": int(finished), **others}

    def render(self) -> str:
        """The response body of /metrics, in Prometheus' text format."""
        return generate_latest(self.registry).decode()
