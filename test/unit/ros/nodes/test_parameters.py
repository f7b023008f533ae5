"""Parameters: typed configurations with dotted names, and rejections that name key, value and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import ManagedNodeParameters, ParameterRow, build, check, parameter, rows

RATE = ParameterRow("rate", 5.0, "Predictions a second", "Hz", 0.1, 50.0)
MODE = ParameterRow("mode", "blocking", "How", choices=("blocking", "streaming"))
BOX = ParameterRow("box", [0.0, 0.0, 0.0], "Corner", "m", -5.0, 5.0, length=3)
COUNT = ParameterRow("count", 3, "How many", low=0)


@dataclass(frozen=True)
class AxesParameters:
    kind: str = parameter("base", "Axes", name="")
    yaw: float = parameter(0.0, "Turn", "rad")


@dataclass(frozen=True)
class ArmParameters(ManagedNodeParameters):
    node: ClassVar[str] = "arm_node"

    seed: int = parameter(3, "Seed", low=0)
    joints: tuple[str, ...] = parameter(("a", "b"), "Joints")
    axes: AxesParameters = field(default_factory=AxesParameters)


def test_whole_numbers_are_taken_for_real_ones():
    assert check(RATE, 5) == 5.0 and type(check(RATE, 5)) is float
    assert check(BOX, [1, 2, 3]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("row", "value", "message"),
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
def test_a_wrong_value_is_refused_in_one_line(row, value, message):
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        check(row, value)
    assert message in str(caught.value)


def test_a_group_gives_its_name_to_its_parameters():
    assert [row.name for row in rows(ArmParameters)] == ["autostart", "seed", "joints", "axes", "axes.yaw"]


def test_a_row_says_type_default_and_range():
    assert [(row.type, row.default, row.range) for row in rows(ArmParameters)][1:4] == [
        ("int", 3, "0 … ∞"), ("string[]", ["a", "b"], ""), ("string", "base", "")
    ]  # fmt: skip
    assert (BOX.type, BOX.range) == ("double[3]", "-5 … 5")


def test_given_values_replace_the_defaults():
    made = build(ArmParameters, {"axes": "tool", "axes.yaw": 1, "joints": ["c"]})
    assert made == ArmParameters(joints=("c",), axes=AxesParameters("tool", 1.0))
    assert type(made.axes.yaw) is float


def test_a_configuration_refuses_a_wrong_value():
    with pytest.raises(ValueError, match="parameter 'seed' is -1; it must be 0 … ∞"):
        build(ArmParameters, {"seed": -1})


@pytest.mark.parametrize(
    ("name", "hint"),
    [("axes.ya", "did you mean axes.yaw or axes"), ("zzz", "it has: autostart, axes, axes.yaw, joints, seed")],
)
def test_an_unknown_key_gets_the_nearest_names(name, hint):
    with pytest.raises(ValueError, match=f"unknown parameter '{name}' for node 'arm_node'; {hint}"):
        build(ArmParameters, {name: 1})


def test_a_parameter_that_moved_names_its_new_place():
    with pytest.raises(ValueError, match="'control_mode' of node 'policy_node' has moved: set it on 'bridge_node'"):
        build(PolicyParameters, {"control_mode": "streaming"})
