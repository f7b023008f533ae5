"""Watchdogs: fresh, old, never seen, from the future; and a clock that jumps."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from openvla_ros.safety.watchdogs import NS, Now, Seen, Watchdogs, clock_jumped, stale

stamps = st.integers(0, 10**12)


@given(stamps, stamps, stamps, stamps, st.floats(0.01, 100.0), st.floats(0.001, 1.0))
def test_age_combines_stamp_at_arrival_and_steady_clock(stamp, node, steady, since, limit, future):
    seen, now = Seen(stamp, Now(node, steady)), Now(0, steady + since)  # wherever the node's clock went meanwhile
    fresh = (node - stamp + since) / NS <= limit and (stamp - node) / NS <= future
    assert (stale("action", seen, now, limit, future) == "") == fresh


def test_the_reason_names_input_age_and_limit():
    assert stale("robot state", None, Now(5, 5), 0.3, 0.05) == "no robot state yet"
    old = Seen(0, Now(NS, 7))
    assert stale("robot state", old, Now(5, NS + 7), 0.3, 0.05) == "no fresh robot state: 2.00 s old, limit 0.3 s"
    ahead = Seen(2 * NS, Now(NS, 0))
    assert stale("action", ahead, Now(NS, 0), 0.3, 0.05) == "action is stamped 1.00 s in the future: clocks differ"


@given(stamps, stamps, stamps, st.integers(0, 10**11), st.floats(0.01, 100.0))
def test_the_clock_may_gain_a_limit_and_never_go_back(before, now, steady, passed, limit):
    jumped = clock_jumped(Now(before, steady), Now(now, steady + passed), limit)
    assert (jumped == "") == (now >= before and (now - before - passed) / NS <= limit)
    assert clock_jumped(None, Now(now, steady), limit) == ""


def test_suspended_processes_and_slow_simulators_see_no_jump():
    assert clock_jumped(Now(0, 0), Now(60 * NS, 60 * NS), 1.0) == ""
    assert clock_jumped(Now(0, 0), Now(NS, 60 * NS), 1.0) == ""
    assert clock_jumped(Now(0, 0), Now(3 * NS, NS), 1.0) == "clock jumped +2.00 s, limit 1 s"
    assert clock_jumped(Now(NS, 0), Now(0, NS), 1.0) == "clock jumped -1.00 s, limit 1 s"


@pytest.mark.parametrize("value", [0.0, -1.0, 1e9, float("nan")])
def test_an_unlimited_watchdog_is_refused(value):
    with pytest.raises(ValueError, match="watchdog 'state'"):
        Watchdogs(state=value)
