"""The motion of an action: smooth, in time, within its bounds; and when it counts as executed."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings, strategies as st

from openvla_ros.control.motion import Arrival, ArrivalConfig, MinimumJerk, Target
from openvla_ros.control.target_pose import compose
from openvla_ros.control.trajectory import StopTrajectory, blend, brake, stop_at
from openvla_ros.geometry import Bounds, Pose, angle, distance, exp, log, multiply

START = Pose.of((0.5, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))
MS = 1_000_000
deltas = st.tuples(*[st.floats(-0.2, 0.2)] * 3, *[st.floats(-0.8, 0.8)] * 3)


bounds = st.builds(Bounds, st.floats(0.05, 1.0), st.floats(0.5, 20.0), st.floats(5.0, 1000.0))


def differences(vectors: list, dt: float) -> list[float]:
    return [math.dist(a, b) / dt for a, b in itertools.pairwise(vectors)]


@given(deltas, st.floats(0.02, 1.0), bounds, bounds)
def test_from_rest_to_rest_within_speed_acceleration_and_jerk(delta, period, move, turn):
    goal = compose(START, delta, "base")
    path = MinimumJerk.plan(START, goal, period, move, turn)
    assert path.duration >= period
    assert distance(path.at(0.0).pose, START) < 1e-12 and path.at(path.duration) == Target(goal)
    assert path.at(-1.0).pose == path.at(0.0).pose
    steps = 60
    dt = path.duration / steps
    way = [path.at(dt * i) for i in range(steps + 1)]
    for a, b in itertools.pairwise(way):
        assert distance(a.pose, b.pose) <= move.speed * dt * 1.001 + 1e-9
        assert angle(a.pose, b.pose) <= turn.speed * dt * 1.001 + 1e-5
    for limit, values in ((move, [t.velocity for t in way]), (turn, [t.turn for t in way])):
        assert max(math.hypot(*v) for v in values) <= limit.speed * 1.001
        assert max(differences(values, dt)) <= limit.acceleration * 1.001 + 1e-6
    for limit, values in ((move, [t.acceleration for t in way]), (turn, [t.turn_acceleration for t in way])):
        assert max(differences(values, dt)) <= limit.jerk * 1.001 + 1e-6


def test_derivatives_match_finite_differences():
    path, h = MinimumJerk(START, compose(START, (0.1, 0.05, 0, 0, 0.3, 0.4), "base"), 0.5), 1e-5
    for t in (0.1, 0.25, 0.4):
        a, b = path.at(t - h), path.at(t + h)
        speed = [(q - p) / (2 * h) for p, q in zip(a.pose.position, b.pose.position, strict=True)]
        assert path.at(t).velocity == pytest.approx(speed, abs=1e-6)
        assert math.hypot(*path.at(t).turn) == pytest.approx(angle(a.pose, b.pose) / (2 * h), rel=1e-4)


MOVE, TURN = Bounds(0.5, 5.0, 100.0), Bounds(2.0, 20.0, 400.0)
wishes = st.tuples(*[st.floats(-0.05, 0.05)] * 3, *[st.floats(-0.2, 0.2)] * 3)


@settings(max_examples=50)
@given(st.lists(st.tuples(wishes, st.sampled_from([blend, stop_at]), st.floats(0.02, 0.4)), min_size=1, max_size=6))
def test_blended_actions_stay_within_bounds_and_end_at_rest(actions):
    """Pose, velocity and acceleration are continuous across every change of the goal, at any time."""
    dt, period, now, way = 0.002, 0.2, Target(START), []
    for delta, how, after in actions:
        goal = compose(now.pose, delta, "base")
        trajectory = how(now, goal, period, MOVE, TURN)
        end = trajectory.at(trajectory.duration)
        if how is stop_at:
            assert distance(end.pose, goal) < 1e-6 and angle(end.pose, goal) < 1e-5 and not end.moving
        count = max(1, int(min(after, trajectory.duration) / dt))
        way += [trajectory.at(dt * i) for i in range(count)]
        now = trajectory.at(dt * count)
    end = brake(now, MOVE.scaled(1.2), TURN.scaled(1.2))  # bounds of each axis
    way += [end.at(dt * i) for i in range(int(end.duration / dt) + 2)]
    assert not way[-1].moving
    slack = math.sqrt(3) * 1.2  # braking is allowed more than the motion
    for limit, speeds, growths in (
        (MOVE, [t.velocity for t in way], [t.acceleration for t in way]),
        (TURN, [t.turn for t in way], [t.turn_acceleration for t in way]),
    ):
        assert max(math.hypot(*v) for v in speeds) <= limit.speed * 1.01
        assert max(differences(speeds, dt)) <= limit.acceleration * slack * 1.01
        assert max(differences(growths, dt)) <= limit.jerk * slack * 1.05
    for a, b in itertools.pairwise(way):
        assert distance(a.pose, b.pose) <= MOVE.speed * dt * 1.01
        assert angle(a.pose, b.pose) <= TURN.speed * dt * 1.01 + 1e-5


def test_streaming_keeps_its_speed_and_does_not_drift():
    now, speeds = Target(START), []
    for _ in range(8):
        trajectory = blend(now, compose(now.pose, (0.02, 0, 0, 0, 0, 0), "base"), 0.2, MOVE, TURN)
        speeds += [trajectory.at(0.02 * i).velocity[0] for i in range(10)]
        now = trajectory.at(trajectory.duration)
    assert min(speeds[10:]) > 0.099 and max(speeds) < 0.101
    assert now.pose.position[0] == pytest.approx(0.5 + 8 * 0.02, abs=0.01)  # but for the distance lost at the start
    trajectory = blend(now, compose(now.pose, (0.5, 0, 0, 0, 0, 0), "base"), 0.2, MOVE, TURN)
    assert trajectory.duration == pytest.approx(0.5 / (0.5 / math.sqrt(3)))  # as long as the speed requires


def test_braking_from_a_straight_motion_stays_straight():
    path = MinimumJerk.plan(START, compose(START, (0.1, 0.05, -0.02, 0, 0, 0.4), "base"), 0.2, MOVE, TURN)
    moving = path.at(path.duration * 0.4)
    end = brake(moving, MOVE, TURN)
    for i in range(11):
        p = end.at(end.duration * i / 10).pose.position
        share = (p[0] - 0.5) / 0.1
        assert p == pytest.approx((0.5 + 0.1 * share, 0.05 * share, 0.2 - 0.02 * share), abs=1e-9)
        assert 0.0 <= share <= 1.0


@given(dz=st.floats(0.005, 0.1), lean=st.floats(0.01, 0.5), period=st.floats(0.0, 0.5), share=st.floats(0.02, 0.98))
@settings(max_examples=100)
def test_a_stop_trajectory_stays_on_its_path(dz, lean, period, share):
    move, turn = Bounds(0.9, 9.0, 180.0), Bounds(2.0, 20.0, 400.0)
    start = Pose.of((0.45, 0.0, 0.25), (1.0, 0.0, 0.0, 0.0))
    goal = Pose.of((0.45, 0.0, 0.25 + dz), multiply(exp((0.0, lean, 0.0)), start.quaternion))
    way = MinimumJerk.plan(start, goal, period, move, turn)
    now, stop = way.at(share * way.duration), StopTrajectory(way, share * way.duration, move, turn)
    assert stop.at(0.0).velocity == pytest.approx(now.velocity, abs=1e-9)
    before = 0.0
    for i in range(101):
        target = stop.at(stop.duration * i / 100)
        z, tilt = target.pose.position[2] - 0.25, angle(start, target.pose)
        assert before - 1e-9 <= z <= dz + 1e-12 and tilt <= lean + 1e-7
        assert z / dz == pytest.approx(tilt / lean, abs=1e-5)
        before = z
    assert not target.moving


@pytest.mark.parametrize("dz", [1e-18, 1e-15, 1e-12, 1e-9, 1e-6, 1e-3])
@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.9])
def test_a_stop_trajectory_on_a_very_short_path(dz, share):
    start = Pose.of((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    for period in (0.0, 0.1):
        way = MinimumJerk.plan(
            start, Pose.of((0.0, 0.0, dz), start.quaternion), period, *2 * (Bounds(0.5, 5.0, 100.0),)
        )
        stop = StopTrajectory(way, share * way.duration, Bounds(0.5, 5.0, 100.0), Bounds(0.5, 5.0, 100.0))
        assert 0.0 < stop.at(stop.duration).pose.position[2] <= dz and not stop.at(stop.duration).moving


@given(st.tuples(*[st.floats(-1.8, 1.8)] * 3))
def test_log_inverts_exp(r):
    assert log(exp(r)) == pytest.approx(r, abs=1e-9)
    assert log(tuple(-v for v in multiply(exp(r), (0, 0, 0, 1)))) == pytest.approx(r, abs=1e-9)


CONFIG = ArrivalConfig()
GOAL = compose(START, (0.04, 0, 0, 0, 0, 0), "base")


def seen(arrival: Arrival, x: float, ms: int) -> Arrival:
    return arrival.pose_measured(CONFIG, Pose.of((x, 0.0, 0.2), START.quaternion), ms * MS)


def test_arrival_at_the_goal_counts_after_the_motion():
    early = seen(Arrival(GOAL, 0, 0.2, None), 0.54, 100)
    assert not early.done(CONFIG, 100 * MS)[0]
    assert seen(early, 0.538, 210).done(CONFIG, 210 * MS) == (True, "")


def test_a_blocked_arm_counts_as_arrived_at_rest():
    arrival = Arrival(GOAL, 0, 0.2, None)
    for ms in range(200, 400, 20):  # moves on at 0.05 m/s: not at rest
        arrival = seen(arrival, 0.50 + 5e-5 * ms, ms)
        assert not arrival.done(CONFIG, ms * MS)[0]
    for ms in range(400, 540, 20):
        arrival = seen(arrival, 0.52, ms)
    assert arrival.done(CONFIG, 540 * MS) == (True, "")


def test_arrival_waits_for_a_gripper_to_arrive_or_stall():
    arrival = seen(Arrival(GOAL, 0, 0.2, 0.0), 0.54, 210)
    assert not arrival.done(CONFIG, 210 * MS)[0]
    assert arrival.opening_measured(CONFIG, 0.02, 220 * MS).done(CONFIG, 220 * MS)[0]
    opening = 1.0
    for ms in range(20, 400, 20):
        opening = max(0.5, opening - 0.05)  # closes, then stops at a cube
        arrival = arrival.opening_measured(CONFIG, opening, ms * MS)
        if opening > 0.5:
            assert not arrival.done(CONFIG, ms * MS)[0]
    assert arrival.done(CONFIG, 400 * MS)[0]


def test_the_time_limit_ends_an_action_and_names_what_moves():
    arrival, late = Arrival(GOAL, 0, 0.2, 0.0), int((0.2 + CONFIG.time_limit) * 1000) + 1
    assert not arrival.done(CONFIG, (late - 10) * MS)[0]
    over, note = arrival.done(CONFIG, late * MS)
    assert over and note == "time limit: arm and gripper still moving 1.5 s after the motion's end"
