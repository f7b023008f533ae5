"""An operator's emergency stop: felt whatever else the device says, told until a bridge says that it has stopped."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AGAIN = 0.2  # [s] between two tellings of one press
PATIENCE = 5.0  # [s] in which a bridge should have answered


class StopButton:
    """Edges of the button, and the telling. All calls come from the executor's thread."""

    def __init__(
        self, tell: Callable[[], None], unanswered: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """tell: publishes the press once; unanswered: called when `PATIENCE` is over and no bridge has stopped."""
        self._tell, self._unanswered, self._clock = tell, unanswered, clock
        self._down = False
        self._until, self._due = math.inf, math.inf

    def feel(self, down: bool) -> bool:
        """The button's state; whether it was pressed with it. Down at first sight counts as pressed."""
        pressed = down and not self._down
        self._down = down
        if pressed:
            self.press()
        return pressed

    def press(self) -> None:
        """Tell it now, and again until `look` hears of the stop: one message may be lost on a bridge that comes up."""
        now = self._clock()
        self._until, self._due = now + PATIENCE, now + AGAIN
        self._tell()

    def look(self, stopped: bool) -> None:
        """Go on telling, as long as it is not known that the bridge has stopped; called often."""
        if self._due == math.inf:
            return
        now = self._clock()
        if stopped:
            self._due = math.inf
        elif now >= self._until:
            self._due = math.inf
            self._unanswered()
        elif now >= self._due:
            self._due = now + AGAIN
            self._tell()
