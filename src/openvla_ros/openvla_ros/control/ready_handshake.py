"""The sender's side of blocking control: one answer to each READY of the bridge."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

RETRY = 2.0  # [s, steady] a READY that was answered so long ago and is still there has lost its answer


class ReadyHandshake:
    """Which READY of the bridge is to be answered, and which one was.

    An answer can be lost: while processes discover each other, the sender may know a bridge that does not know the
    sender yet, and a message that is sent once is not certain to arrive. A READY that persists is therefore answered
    again after `RETRY` seconds. That is safe: a bridge that did receive the first answer is in motion, or READY for
    newer observations, and refuses the second one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with no READY.

        Args:
            clock: A steady clock [s].
        """
        self._clock = clock
        self._ready_ns, self._reason = 0, ""
        self.reset()

    @property
    def ready_ns(self) -> int:
        """Since when the bridge has been READY [ns, node clock]; 0 if it is not READY."""
        return self._ready_ns

    def reset(self) -> None:
        """Forget the answers: the present READY is open."""
        self._answered_ns, self._since = 0, 0.0

    def update(self, ready_ns: int, reason: str = "") -> None:
        """Take in the bridge's state.

        Args:
            ready_ns: Since when it has been READY [ns, node clock]; 0 if it is not READY.
            reason: The reason in its safety/state.
        """
        self._ready_ns, self._reason = ready_ns, reason

    def is_open(self, observation_ns: int | None = None) -> bool:
        """Whether the present READY waits for an answer.

        Any READY other than the one answered is a new one, even with an older stamp: the bridge may have been
        restarted after its clock was set back.

        Args:
            observation_ns: Stamp of the observation to act on [ns, node clock]: it must not be older than the READY.

        Returns:
            Whether an action may be sent.
        """
        if self._ready_ns <= 0 or (observation_ns is not None and observation_ns < self._ready_ns):
            return False
        return self._ready_ns != self._answered_ns or self._clock() - self._since >= RETRY

    def mark_started(self) -> str:
        """Note that an answer to the present READY is being computed: it is not asked for again meanwhile.

        Returns:
            What to log if this READY was answered before; '' otherwise.
        """
        return self._mark(self._ready_ns, math.inf)

    def mark_sent(self, ready_ns: int | None = None) -> str:
        """Note that an answer was sent.

        Args:
            ready_ns: The READY that it answers; None: the present one.

        Returns:
            What to log if this READY was answered before; '' otherwise.
        """
        return self._mark(self._ready_ns if ready_ns is None else ready_ns, self._clock())

    def _mark(self, ready_ns: int, since: float) -> str:
        again = ready_ns == self._answered_ns
        self._answered_ns, self._since = ready_ns, since
        reports = f"; it reports: {self._reason}" if self._reason else ""
        return f"the bridge did not receive the last action, one more is sent{reports}" if again else ""
