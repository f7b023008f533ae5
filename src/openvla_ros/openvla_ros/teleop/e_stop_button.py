"""The operator's emergency-stop button: a press is published until a bridge reports that it has stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

REPEAT_PERIOD = 0.2  # [s] between two messages for one press
TIMEOUT = 5.0  # [s] within which a bridge should report that it has stopped


class EStopButton:
    """Detects presses and repeats their message until a bridge has stopped; called from the executor's thread."""

    def __init__(
        self, publish: Callable[[], None], on_timeout: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Start with a button that is not pressed.

        Args:
            publish: Publishes the press once.
            on_timeout: Called when no bridge has stopped within `TIMEOUT`.
            clock: Steady clock [s].
        """
        self._publish, self._on_timeout, self._clock = publish, on_timeout, clock
        self._down = False
        self._until, self._due = math.inf, math.inf

    def update(self, down: bool) -> bool:
        """Take the state of the button.

        Args:
            down: Whether it is down.

        Returns:
            Whether it was pressed just now; a button that is down in its first state counts as pressed.
        """
        pressed = down and not self._down
        self._down = down
        if pressed:
            self.press()
        return pressed

    def press(self) -> None:
        """Publish a press now, and again until the bridge has stopped: a bridge that starts may miss one message."""
        now = self._clock()
        self._until, self._due = now + TIMEOUT, now + REPEAT_PERIOD
        self._publish()

    def poll(self, stopped: bool) -> None:
        """Repeat the message when it is due; call it often.

        Args:
            stopped: Whether the bridge reports an emergency stop.
        """
        if self._due == math.inf:
            return
        now = self._clock()
        if stopped:
            self._due = math.inf
        elif now >= self._until:
            self._due = math.inf
            self._on_timeout()
        elif now >= self._due:
            self._due = now + REPEAT_PERIOD
            self._publish()
