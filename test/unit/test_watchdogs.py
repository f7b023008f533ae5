"""Watchdogs: fresh, old, never seen, from the future; and a clock that jumps."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from openvla_ros.safety.watchdogs import NS, Watchdogs, clock_jumped, stale

stamps = st.integers(0, 10**12)


@given(stamps, stamps, st.floats(0.01, 100.0), st.floats(0.001, 1.0))
def test_fresh_is_within_the_limit_and_not_ahead(stamp, now, limit, future):
    age = (now - stamp) / NS
    assert (stale("action", stamp, now, limit, future) == "") == (-future <= age <= limit)


def test_the_reason_names_the_thing_its_age_and_the_limit():
    assert stale("robot state", None, 5, 0.3, 0.05) == "no robot state yet"
    assert stale("robot state", 0, 2 * NS, 0.3, 0.05) == "no fresh robot state: 2.00 s old, limit 0.3 s"
    assert stale("action", 2 * NS, NS, 0.3, 0.05) == "action is stamped 1.00 s in the future: clocks differ"


@given(stamps, stamps, st.floats(0.01, 100.0))
def test_the_clock_may_go_forward_by_its_limit_and_never_back(before, now, limit):
    assert (clock_jumped(before, now, limit) == "") == (0 <= now - before <= limit * NS)
    assert clock_jumped(None, now, limit) == ""


@pytest.mark.parametrize("value", [0.0, -1.0, 1e9, float("nan")])
def test_a_watchdog_that_never_barks_is_refused(value):
    with pytest.raises(ValueError, match="watchdog 'state'"):
        Watchdogs(state=value)
