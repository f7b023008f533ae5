"""Limits: any input comes out within them, with the name of the limit that cut it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings, strategies as st

from openvla_ros.control.motion import MinimumJerk
from openvla_ros.control.trajectory import StopTrajectory
from openvla_ros.geometry import Bounds, Pose
from openvla_ros.safety.gripper_limits import GripperLimiter, gripper_command
from openvla_ros.safety.joint_limits import JointLimits, limit_joints
from openvla_ros.safety.limits import Limits, brake_time, limit_action, malformed, mixed_brake_time
from openvla_ros.safety.zones import Zones

ZONES = Zones((0.2, -0.3, 0.0), (0.7, 0.3, 0.5))
LIMITS = Limits(ZONES, max_translation=0.06, max_rotation=0.3)
any_float = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(any_float, min_size=7, max_size=7), st.floats(0.01, 1.0))
def test_an_action_comes_out_within_the_caps(action, scale):
    limits = replace(LIMITS, scale=scale)
    kept, names = limit_action(action, limits)
    assert math.hypot(*kept[:3]) <= 0.06 * (1 + 1e-9)
    assert max(map(abs, kept[3:6])) <= 0.3 * (1 + 1e-9)
    assert 0.0 <= kept[6] <= 1.0
    assert ("max_translation" in names) == (math.hypot(*(v * scale for v in action[:3])) > 0.06)
    assert ("max_rotation" in names) == (max(abs(v * scale) for v in action[3:6]) > 0.3)


def test_a_cut_translation_keeps_its_direction():
    kept, names = limit_action([0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 1.0], LIMITS)
    assert kept[:3] == pytest.approx((0.036, 0.048, 0.0)) and names == ("max_translation",)
    small = (0.01, -0.02, 0.005, 0.1, -0.2, 0.05, 0.3)
    assert limit_action(small, LIMITS) == (small, ())


def test_scale_applies_to_motion_but_not_the_gripper():
    kept, _ = limit_action([0.04, 0, 0, 0, 0, 0.2, 1.0], replace(LIMITS, scale=0.5))
    assert kept == pytest.approx((0.02, 0, 0, 0, 0, 0.1, 1.0))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(7))
def test_a_value_that_is_not_finite_is_named(bad, index):
    action = [0.0] * 7
    action[index] = bad
    assert malformed(action) == f"action value {index} is {bad}"


def test_lengths():
    assert malformed([0.0] * 6) == "action has 6 values, not 7"
    assert malformed([0.0] * 7) == ""


def test_gripper_hysteresis():
    assert gripper_command(0.3, 1.0, LIMITS) == 0.0
    assert gripper_command(0.7, 0.0, LIMITS) == 1.0
    assert gripper_command(0.5, 0.0, LIMITS) == 0.0
    assert gripper_command(0.5, 1.0, LIMITS) == 1.0


def test_gripper_commands_keep_their_interval():
    second = 1_000_000_000
    limiter = GripperLimiter(0.0, 10 * second)
    assert limiter.command(0.9, 0.0, 10 * second + second // 5, LIMITS) == (None, ("gripper_rate",))
    assert limiter.command(0.1, 0.0, 10 * second + second // 5, LIMITS) == (None, ())
    assert limiter.command(0.9, 0.0, 10 * second + second // 2, LIMITS) == (1.0, ())
    assert limiter.command(0.9, 0.0, 9 * second, LIMITS) == (1.0, ()), "a clock set back does not block commands"
    cleared = limiter.clear()
    assert cleared.command(0.1, 0.0, 10 * second + second // 5, LIMITS) == (None, ("gripper_rate",)), "not too soon"
    assert cleared.command(0.1, 0.0, 11 * second, LIMITS) == (0.0, ()), "it may have been moved meanwhile"
    assert cleared.command(0.5, 0.9, 11 * second, LIMITS) == (1.0, ()), "between the thresholds: as measured"
    assert GripperLimiter().command(0.5, None, 0, LIMITS) == (1.0, ()), "never measured: open"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"close_below": 0.7}, "close_below 0.7"),
        ({"scale": 0.0}, "over 0"),
        ({"stop_time": math.inf}, "finite"),
        ({"gripper_interval": -1.0}, "gripper interval"),
        ({"stop_factor": 1.0}, "at least 1.75"),
        ({"on_limit": "ignore"}, "choices: clip, refuse"),
    ],
)
def test_contradictory_limits_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        replace(LIMITS, **changes)


shapes = st.builds(Bounds, st.floats(0.05, 2.0), st.floats(1.0, 40.0), st.floats(20.0, 2000.0))


@settings(max_examples=300)
@given(shapes, shapes, st.floats(0.001, 0.2), st.floats(0.005, 1.0), st.floats(0.0, 1.0), st.floats(1.75, 4.0))
def test_no_combined_motion_stops_slower_than_its_bound(move, turn, way, angle, when, factor):
    """The bound for the deceleration of one motion and the jerk of the other, against Ruckig."""
    limits = Limits(ZONES, move=move, turn=turn, stop_factor=factor)
    braking = limits.braking(move), limits.braking(turn)
    most = max(brake_time(move, braking[0]), brake_time(turn, braking[1]), mixed_brake_time(move, turn, *braking))
    goal = Pose.of((way, 0.0, 0.0), (0.0, 0.0, math.sin(angle / 2), math.cos(angle / 2)))
    path = MinimumJerk.plan(Pose.of((0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)), goal, 0.05, move, turn)
    assert StopTrajectory(path, when * path.duration, *braking).duration <= most + 1e-6


@pytest.mark.parametrize("values", [(math.inf, 1, 1), (0.0, 1, 1), (1, -1, 1), (1, 1, math.nan)])
def test_unbounded_bounds_are_refused(values):
    with pytest.raises(ValueError, match="finite and over 0"):
        Bounds(*values)


def test_a_stop_that_takes_too_long_is_refused():
    LIMITS.check_stop(0.02)
    with pytest.raises(ValueError, match=r"stop.time is 0.1 s, but from the limits on 'move' .* takes up to 0\.\d+ s"):
        replace(LIMITS, stop_time=0.1).check_stop(0.02)
    assert brake_time(Bounds(1.0, 2.0, 1e9), Bounds(1.0, 4.0, 1e9)) == pytest.approx(0.25)


JOINTS = JointLimits(("waist", "elbow"), (-1.0, 0.0), (1.0, 2.0), (1.0, 2.0), margin=0.1)


@given(*[st.tuples(st.floats(-3, 3), st.floats(-3, 3)), st.tuples(st.floats(-0.9, 0.9), st.floats(0.1, 1.9))],
       st.floats(0.0, 0.5))  # fmt: skip
def test_joints_stay_within_ranges_and_speeds(wanted, present, step):
    kept, names = limit_joints(wanted, present, step, JOINTS)
    for value, now, low, high, speed in zip(kept, present, JOINTS.low, JOINTS.high, JOINTS.speed, strict=True):
        assert low + 0.1 - 1e-12 <= value <= high - 0.1 + 1e-12
        assert abs(value - now) <= speed * step + 1e-12
    if not names:
        assert kept == pytest.approx(wanted)


def test_a_joint_over_its_speed_slows_all_joints():
    kept, names = limit_joints((0.5, 1.2), (0.0, 1.0), 0.1, JOINTS)
    assert kept == pytest.approx((0.1, 1.04)) and names == ("joint_speed_waist",)
    with pytest.raises(ValueError, match="no joint positions"):
        limit_joints((math.nan, 0.0), (0.0, 0.0), 0.1, JOINTS)
    with pytest.raises(ValueError, match="joint 'waist'"):
        JointLimits(("waist",), (0.0,), (0.1,), (1.0,), margin=0.1)
