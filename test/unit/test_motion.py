"""One action on its way: smooth, in time, within the speed limits; and when it counts as executed."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from openvla_ros.robots.motion import PROFILES, Arrival, ArrivalConfig, plan
from openvla_ros.robots.target_pose import Pose, angle, compose, distance

START = Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))
MS = 1_000_000
deltas = st.tuples(*[st.floats(-0.2, 0.2)] * 3, *[st.floats(-0.8, 0.8)] * 3)


@given(deltas, st.sampled_from(sorted(PROFILES)), st.floats(0.02, 1.0), st.floats(0.05, 1.0), st.floats(0.1, 3.0))
def test_from_start_to_goal_within_the_speeds(delta, profile, period, speed, turn):
    goal = compose(START, delta, "base")
    motion = plan(START, goal, 1000, period, speed, turn, profile)
    assert motion.duration >= period
    assert motion.at(0) == START or distance(motion.at(0), START) < 1e-12
    end = 1000 + int(motion.duration * 1e9) + 1
    assert motion.at(end) == goal and motion.over(end) and not motion.over(1000)
    steps = 50
    poses = [motion.at(1000 + round(motion.duration * 1e9 * i / steps)) for i in range(steps + 1)]
    dt = motion.duration / steps
    for a, b in zip(poses, poses[1:], strict=False):
        assert distance(a, b) <= speed * dt * 1.01 + 1e-9
        assert angle(a, b) <= turn * dt * 1.01 + 1e-5


def test_minimum_jerk_starts_and_ends_at_rest():
    shape, peak = PROFILES["minimum_jerk"]
    assert (shape(0.0), shape(1.0), shape(0.5)) == (0.0, 1.0, 0.5)
    assert shape(0.01) < 1e-4 and shape(0.99) > 1 - 1e-4
    assert max((shape((i + 1) / 1000) - shape(i / 1000)) * 1000 for i in range(1000)) == pytest.approx(peak, abs=1e-3)


CONFIG = ArrivalConfig()
GOAL = compose(START, (0.04, 0, 0, 0, 0, 0), "base")
MOTION = plan(START, GOAL, 0, 0.2, 1.0, 3.0, "minimum_jerk")


def seen(arrival: Arrival, x: float, ms: int) -> Arrival:
    return arrival.seen(CONFIG, Pose.of((x, 0.0, 0.2), START.quaternion), ms * MS)


def test_at_the_goal_but_not_before_the_motion_is_over():
    early = seen(Arrival(MOTION, None), 0.54, 100)
    assert not early.done(CONFIG, 100 * MS)[0]
    assert seen(early, 0.538, 210).done(CONFIG, 210 * MS) == (True, "")


def test_blocked_counts_as_executed_once_it_stands():
    arrival = Arrival(MOTION, None)
    for ms in range(200, 400, 20):  # creeps on at 0.05 m/s: not standing
        arrival = seen(arrival, 0.50 + 5e-5 * ms, ms)
        assert not arrival.done(CONFIG, ms * MS)[0]
    for ms in range(400, 540, 20):
        arrival = seen(arrival, 0.52, ms)
    assert arrival.done(CONFIG, 540 * MS) == (True, "")


def test_a_gripper_is_waited_for_until_it_arrives_or_holds_something():
    arrival = seen(Arrival(MOTION, 0.0), 0.54, 210)
    assert not arrival.done(CONFIG, 210 * MS)[0]
    assert arrival.gripper_seen(CONFIG, 0.02, 220 * MS).done(CONFIG, 220 * MS)[0]
    opening = 1.0
    for ms in range(20, 400, 20):
        opening = max(0.5, opening - 0.05)  # closes, then stands at a cube
        arrival = arrival.gripper_seen(CONFIG, opening, ms * MS)
        if opening > 0.5:
            assert not arrival.done(CONFIG, ms * MS)[0]
    assert arrival.done(CONFIG, 400 * MS)[0]


def test_the_time_limit_ends_it_and_says_what_was_missing():
    arrival, late = Arrival(MOTION, 0.0), int((0.2 + CONFIG.time_limit) * 1000) + 1
    assert not arrival.done(CONFIG, (late - 10) * MS)[0]
    over, note = arrival.done(CONFIG, late * MS)
    assert over and note == "time limit: arm and gripper still moving 1.5 s after the motion's end"
