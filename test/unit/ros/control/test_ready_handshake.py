"""The hand-shake of blocking control: one answer to each READY, and one more when nobody heard it."""

from __future__ import annotations

from hypothesis import given, strategies as st

from openvla_ros.control.ready_handshake import AGAIN, Invitation


class Clock:
    """Seconds that pass when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_ready_is_answered_once_and_again_only_when_it_goes_on_for_long() -> None:
    clock = Clock()
    invitation = Invitation(clock)
    assert not invitation.open(0), "not READY"
    assert invitation.open(7) and invitation.open(7), "open until it is answered"
    assert invitation.answer(7) is False
    clock.now += 0.99 * AGAIN
    assert not invitation.open(7)
    assert invitation.open(8), "a new READY needs no patience"
    clock.now += 0.02 * AGAIN
    assert invitation.open(7), "the answer was lost"
    assert invitation.answer(7) is True
    assert not invitation.open(7), "patience begins anew"


def test_an_answer_that_is_still_being_made_is_not_lost() -> None:
    clock = Clock()
    invitation = Invitation(clock)
    invitation.answer(7, sent=False)
    clock.now += 100 * AGAIN
    assert not invitation.open(7), "a prediction may take long, and one that failed for good is not asked for again"
    invitation.answer(7)
    assert not invitation.open(7)
    clock.now += AGAIN
    assert invitation.open(7)


def test_forgetting_and_a_bridge_whose_clock_was_set_back() -> None:
    invitation = Invitation(Clock())
    invitation.answer(1_000)
    assert invitation.open(3), "a bridge started anew after its clock was set back"
    invitation.forget()
    assert invitation.open(1_000) and not invitation.answer(1_000)


@given(st.lists(st.tuples(st.floats(0.0, AGAIN / 3), st.booleans()), max_size=60))
def test_no_ready_that_the_bridge_answers_in_time_is_answered_twice(steps: list[tuple[float, bool]]) -> None:
    clock, ready, answered = Clock(), 1, list[int]()
    invitation = Invitation(clock)
    for passed, heard in [*steps, (0.0, True)]:
        if invitation.open(ready):
            invitation.answer(ready)
            answered.append(ready)
            since = clock.now
        clock.now += passed
        if heard or clock.now - since > AGAIN / 2:
            ready += 1
    assert answered == sorted(set(answered))
