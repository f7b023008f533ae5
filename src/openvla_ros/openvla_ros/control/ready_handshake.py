"""The hand-shake of blocking control, as the sender of actions keeps it: one answer to each READY of the bridge."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AGAIN = 2.0  # [s, steady] a bridge that still says the READY that was answered so long ago has not heard the answer


class Invitation:
    """Which READY was answered, and when.

    An answer can be lost: while the processes discover one another, the sender may know a bridge that does not know the
    sender yet, and nothing that is sent once is certain to arrive. A READY that goes on is therefore answered again
    after `AGAIN` seconds. That is safe: a bridge that has the first answer after all is in motion, or READY for newer
    images, and refuses the second one.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Nothing was answered: the READY of the moment stands open."""
        self._ready_ns, self._since = 0, 0.0

    def open(self, ready_ns: int) -> bool:
        """Whether the READY since `ready_ns` [node clock; 0: there is none] waits for an answer.

        Any other READY than the one answered is a new one, an older stamp too: a bridge that was started anew after its
        clock was set back.
        """
        return ready_ns > 0 and (ready_ns != self._ready_ns or self._clock() - self._since >= AGAIN)

    def answer(self, ready_ns: int, *, sent: bool = True) -> bool:
        """The READY since `ready_ns` is answered; True: not for the first time. sent=False: not yet, it is in hand."""
        again = ready_ns == self._ready_ns
        self._ready_ns, self._since = ready_ns, self._clock() if sent else math.inf
        return again


def unheard(reason: str) -> str:
    """What to log when a READY is answered again. reason: the bridge's, in its safety/state."""
    return "the bridge did not hear the last action, one more is sent" + (f"; it says: {reason}" if reason else "")
