"""The handshake of blocking control: one answer to each READY, and another one if it was lost."""

from __future__ import annotations

from hypothesis import given, strategies as st

from openvla_ros.control.ready_handshake import RETRY, ReadyHandshake


class Clock:
    """A clock that the test advances [s]."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def ready(since_ns: int) -> tuple[ReadyHandshake, Clock]:
    clock = Clock()
    handshake = ReadyHandshake(clock)
    handshake.update(since_ns)
    return handshake, clock


def test_nothing_is_open_before_the_bridge_is_ready() -> None:
    handshake, _ = ready(0)
    assert not handshake.is_open()
    handshake.update(7)
    assert handshake.is_open()


def test_a_ready_is_open_until_it_is_answered() -> None:
    handshake, _ = ready(7)
    assert handshake.is_open() and handshake.is_open()
    assert handshake.mark_sent() == ""
    assert not handshake.is_open()
    handshake.update(8)
    assert handshake.is_open()


def test_an_observation_from_before_the_ready_answers_nothing() -> None:
    handshake, _ = ready(7)
    assert not handshake.is_open(6)
    assert handshake.is_open(7)


def test_a_ready_that_persists_is_answered_again() -> None:
    handshake, clock = ready(7)
    handshake.mark_sent()
    clock.now += 0.99 * RETRY
    assert not handshake.is_open()
    clock.now += 0.02 * RETRY
    assert handshake.is_open()
    handshake.update(7, "waiting for an action")
    assert handshake.mark_sent().endswith("one more is sent; it reports: waiting for an action")
    assert not handshake.is_open()


def test_an_answer_being_computed_is_not_lost() -> None:
    handshake, clock = ready(7)
    handshake.mark_started()
    clock.now += 100 * RETRY
    assert not handshake.is_open(), "a prediction may take long, and a failed one is not asked for again"
    handshake.mark_sent(7)
    assert not handshake.is_open()
    clock.now += RETRY
    assert handshake.is_open()


def test_reset_opens_the_present_ready() -> None:
    handshake, _ = ready(1_000)
    handshake.mark_sent()
    handshake.reset()
    assert handshake.is_open()
    assert handshake.mark_sent() == ""


def test_an_older_ready_of_a_restarted_bridge_is_open() -> None:
    handshake, _ = ready(1_000)
    handshake.mark_sent()
    handshake.update(3)
    assert handshake.is_open()


@given(st.lists(st.tuples(st.floats(0.0, RETRY / 3), st.booleans()), max_size=60))
def test_no_ready_is_answered_twice_in_time(steps: list[tuple[float, bool]]) -> None:
    handshake, clock = ready(1)
    since, answered = 1, list[int]()
    for passed, received in [*steps, (0.0, True)]:
        handshake.update(since)
        if handshake.is_open():
            handshake.mark_sent()
            answered.append(since)
            at = clock.now
        clock.now += passed
        if received or clock.now - at > RETRY / 2:
            since += 1
    assert answered == sorted(set(answered))
