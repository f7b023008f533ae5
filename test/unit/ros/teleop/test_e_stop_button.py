"""The operator's emergency stop: published at each press, and again until a bridge has stopped."""

from __future__ import annotations

from openvla_ros.teleop.e_stop_button import REPEAT_PERIOD, TIMEOUT, EStopButton


class Bench:
    """A button with a clock, which counts messages and timeouts."""

    def __init__(self) -> None:
        self.now, self.published, self.timeouts = 50.0, 0, 0
        self.button = EStopButton(self._publish, self._time_out, lambda: self.now)

    def _publish(self) -> None:
        self.published += 1

    def _time_out(self) -> None:
        self.timeouts += 1

    def spend(self, seconds: float, stopped: bool) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.02
            self.button.poll(stopped)


def test_nothing_is_published_without_a_press() -> None:
    bench = Bench()
    bench.spend(1.0, stopped=False)
    assert bench.published == 0


def test_a_button_down_in_its_first_state_counts_as_pressed() -> None:
    bench = Bench()
    assert bench.button.update(True) and bench.published == 1
    assert not bench.button.update(True)


def test_a_press_with_a_stopped_bridge_is_published_once() -> None:
    bench = Bench()
    bench.button.update(True)
    bench.spend(0.5 * REPEAT_PERIOD, stopped=False)
    bench.spend(TIMEOUT + 1.0, stopped=True)
    assert (bench.published, bench.timeouts) == (1, 0)
    bench.spend(TIMEOUT + 1.0, stopped=False)  # the operator has reset the stop
    assert (bench.published, bench.timeouts) == (1, 0)
    assert not bench.button.update(False) and bench.button.update(True) and bench.published == 2


def test_a_press_without_a_stop_is_repeated_until_the_timeout() -> None:
    bench = Bench()
    bench.button.press()
    bench.spend(2.1 * REPEAT_PERIOD, stopped=False)
    assert bench.published == 3
    bench.spend(TIMEOUT, stopped=False)
    assert bench.timeouts == 1 and bench.published >= TIMEOUT / REPEAT_PERIOD * 0.9
    published = bench.published
    bench.spend(TIMEOUT, stopped=False)
    assert (bench.published, bench.timeouts) == (published, 1)
