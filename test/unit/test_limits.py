"""Limits: whatever comes in, what goes out is within them, and the limit that cut it is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, strategies as st

from openvla_ros.safety.limits import Limits, gripper_command, limit_action, limit_position, malformed

LIMITS = Limits((0.2, -0.3, 0.0), (0.7, 0.3, 0.5), max_translation=0.06, max_rotation=0.3)
any_float = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(any_float, min_size=7, max_size=7), st.floats(0.01, 1.0))
def test_an_action_comes_out_within_the_caps(action, scale):
    limits = Limits(LIMITS.box_low, LIMITS.box_high, max_translation=0.06, max_rotation=0.3, scale=scale)
    kept, names = limit_action(action, limits)
    assert math.hypot(*kept[:3]) <= 0.06 * (1 + 1e-9)
    assert max(map(abs, kept[3:6])) <= 0.3 * (1 + 1e-9)
    assert 0.0 <= kept[6] <= 1.0
    assert ("max_translation" in names) == (math.hypot(*(v * scale for v in action[:3])) > 0.06)
    assert ("max_rotation" in names) == (max(abs(v * scale) for v in action[3:6]) > 0.3)


def test_a_cut_translation_keeps_its_direction_and_a_small_one_its_value():
    kept, names = limit_action([0.3, 0.4, 0.0, 0.0, 0.0, 0.0, 1.0], LIMITS)
    assert kept[:3] == pytest.approx((0.036, 0.048, 0.0)) and names == ("max_translation",)
    small = (0.01, -0.02, 0.005, 0.1, -0.2, 0.05, 0.3)
    assert limit_action(small, LIMITS) == (small, ())


def test_scale_divides_motion_but_not_the_gripper():
    kept, _ = limit_action([0.04, 0, 0, 0, 0, 0.2, 1.0], Limits(LIMITS.box_low, LIMITS.box_high, scale=0.5))
    assert kept == pytest.approx((0.02, 0, 0, 0, 0, 0.1, 1.0))


@given(st.tuples(any_float, any_float, any_float))
def test_a_position_comes_out_inside_the_box(position):
    kept, names = limit_position(position, LIMITS)
    for axis, value, low, high, before in zip("xyz", kept, LIMITS.box_low, LIMITS.box_high, position, strict=True):
        assert low <= value <= high
        assert (f"box_{axis}" in names) == (not low <= before <= high)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("index", range(7))
def test_a_value_that_is_no_number_is_named(bad, index):
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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"box_low": (0.8, 0, 0)}, "workspace box"),
        ({"close_below": 0.7}, "close_below 0.7"),
        ({"scale": 0.0}, "over 0"),
        ({"max_speed": math.inf}, "finite"),
        ({"on_limit": "ignore"}, "choices: clip, refuse"),
    ],
)
def test_limits_that_make_no_sense_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Limits(**({"box_low": (0.2, -0.3, 0.0), "box_high": (0.7, 0.3, 0.5)} | changes))
