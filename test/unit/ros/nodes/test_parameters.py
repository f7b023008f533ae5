"""A parameter table refuses in one line that names the key, the value and what is allowed."""

from __future__ import annotations

import pytest

from openvla_ros.parameters import Parameter, check, unknown_key

RATE = Parameter("rate", 5.0, "Predictions a second", "Hz", 0.1, 50.0)
MODE = Parameter("mode", "blocking", "How", choices=("blocking", "streaming"))
BOX = Parameter("box", [0.0, 0.0, 0.0], "Corner", "m", -5.0, 5.0, length=3)
COUNT = Parameter("count", 3, "How many", low=0)


def test_whole_numbers_are_taken_for_real_ones():
    assert check(RATE, 5) == 5.0 and type(check(RATE, 5)) is float
    assert check(BOX, [1, 2, 3]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("row", "value", "said"),
    [
        (RATE, 500.0, "parameter 'rate' is 500.0; it must be 0.1 … 50 Hz (Predictions a second)"),
        (RATE, float("nan"), "parameter 'rate' is nan; it must be a finite number"),
        (RATE, "fast", "parameter 'rate' is 'fast'; it must be a number"),
        (RATE, True, "parameter 'rate' is True; it must be a number"),
        (MODE, "dreaming", "'mode' is 'dreaming'; it must be one of 'blocking', 'streaming'"),
        (BOX, [0.0, 1.0], "'box' is [0.0, 1.0]; it must be 3 values, not 2"),
        (BOX, [0.0, 1.0, 9.0], "'box' is [0.0, 1.0, 9.0]; it must be -5 … 5 m"),
        (BOX, "here", "'box' is 'here'; it must be a list of number"),
        (COUNT, 2.5, "'count' is 2.5; it must be a whole number"),
        (COUNT, -1, "'count' is -1; it must be 0 … ∞"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(row, value, said):
    with pytest.raises(ValueError) as caught:
        check(row, value)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_key_gets_the_nearest_names():
    known = ["camera.rate", "camera.width", "seed"]
    assert unknown_key("camera.rte", known, "sim_node") == (
        "unknown parameter 'camera.rte' for node 'sim_node'; did you mean camera.rate or camera.width?"
    )
    assert "it has: camera.rate, camera.width, seed" in unknown_key("zzz", known, "sim_node")
