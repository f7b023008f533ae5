"""The operator's emergency stop: once for each press, and again until a bridge has stopped."""

from __future__ import annotations

from openvla_ros.teleop.e_stop_button import AGAIN, PATIENCE, StopButton


class Bench:
    """A button with a clock, and what it said."""

    def __init__(self) -> None:
        self.now, self.told, self.unanswered = 50.0, 0, 0
        self.button = StopButton(self._tell, self._miss, lambda: self.now)

    def _tell(self) -> None:
        self.told += 1

    def _miss(self) -> None:
        self.unanswered += 1

    def spend(self, seconds: float, stopped: bool) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.02
            self.button.look(stopped)


def test_a_press_that_is_answered_is_told_once() -> None:
    bench = Bench()
    bench.spend(1.0, stopped=False)
    assert bench.told == 0
    assert bench.button.feel(True) and bench.told == 1, "down at first sight, too"
    assert not bench.button.feel(True)
    bench.spend(0.5 * AGAIN, stopped=False)
    bench.spend(PATIENCE + 1.0, stopped=True)
    assert (bench.told, bench.unanswered) == (1, 0)
    bench.spend(PATIENCE + 1.0, stopped=False)
    assert (bench.told, bench.unanswered) == (1, 0), "reset by the operator: the press was answered once and for all"
    assert not bench.button.feel(False) and bench.button.feel(True) and bench.told == 2


def test_a_press_that_nobody_answers_is_told_again_and_in_the_end_said() -> None:
    bench = Bench()
    bench.button.press()
    bench.spend(2.1 * AGAIN, stopped=False)
    assert bench.told == 3
    bench.spend(PATIENCE, stopped=False)
    assert bench.unanswered == 1 and bench.told >= PATIENCE / AGAIN * 0.9
    told = bench.told
    bench.spend(PATIENCE, stopped=False)
    assert (bench.told, bench.unanswered) == (told, 1)
