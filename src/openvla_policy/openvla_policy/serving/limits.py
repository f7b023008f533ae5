"""What a request and a connection may cost, and how a request is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What clients may request of the server.

    Attributes:
        body: Size of a request or message [bytes].
        queue: Requests that may wait for the policy.
        wait: Longest time that a request waits for the policy [s].
        receive: Longest time for a body to arrive [s].
        connections: Open WebSockets.
        in_flight: Unanswered requests of one WebSocket.
        batch: Requests computed in one pass.
        batch_wait: How long a pass waits for further requests [s].
    """

    body: int = 32 * 2**20
    queue: int = 32
    wait: float = 10.0
    receive: float = 10.0
    connections: int = 32
    in_flight: int = 8
    batch: int = 8
    batch_wait: float = 0.0

    def __post_init__(self) -> None:
        for name in ("body", "queue", "wait", "receive", "connections", "in_flight", "batch"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limit {name}: expected a number > 0, got {getattr(self, name)}")
        if not 0 <= self.batch_wait < 1:
            raise ValueError(f"limit batch_wait: expected 0 to 1 s, got {self.batch_wait}")


class Refused(Exception):
    """A request answered with an error: an HTTP status and one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


class Late(Refused):
    """The deadline passed before the answer, so no robot may execute it."""

    def __init__(self, budget: float, took: float) -> None:
        super().__init__(504, f"late: the deadline was {budget * 1e3:.0f} ms, {took * 1e3:.0f} ms went by")
