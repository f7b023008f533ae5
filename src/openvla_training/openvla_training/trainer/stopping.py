"""A run that is asked to stop ends between two steps: nothing is half changed, and the state that is saved is exact."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType


class Interruption:
    """Within a `with` block Ctrl-C (SIGINT) is a wish, `asked`; outside of the main thread nothing changes.

    Of a single process the second Ctrl-C ends at once, by KeyboardInterrupt. One of several must not leave the others
    waiting for it: there each is a wish alone.
    """

    def __init__(self, several: bool) -> None:
        self.asked, self._several = False, several

    def __enter__(self) -> Interruption:
        self._mine = threading.current_thread() is threading.main_thread()
        if self._mine:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self._several:
            raise KeyboardInterrupt
        self.asked = True
