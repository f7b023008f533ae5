"""From readings to actions: permission, size and direction, gripper and commands, leader arm."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.teleop.frames import device_rotation
from openvla_ros.teleop.joystick import JoyMap, read_twist
from openvla_ros.teleop.keyboard import REPEAT_DELAY, Keyboard
from openvla_ros.teleop.leader_arm import Follower, LeaderPose
from openvla_ros.teleop.operator import CLOSED, OPEN, Operator, Speed
from openvla_ros.teleop.operator_input import DeviceError, OperatorInput, shaped

BASE = Rotation.identity()
SPEED = Speed(linear=0.1, angular=0.5, slow=0.25, fast=2.0, period=0.1)
unit = st.floats(-1.0, 1.0)
readings = st.floats(-3.0, 3.0)
six = st.tuples(*[unit] * 6)
turns = st.tuples(*[st.floats(-3.0, 3.0)] * 3).map(lambda r: Rotation.from_rotvec(np.array(r)))


def operator(follower: Follower | None = None) -> Operator:
    """One that has seen its deadman released, and the gripper open."""
    made = Operator(SPEED, timeout=0.3, follower=follower)
    made.gripper_measured(1.0)
    made.apply(OperatorInput(), 0.0)
    return made


# ---- axes ----------------------------------------------------------------------------------------


@given(readings, st.floats(0.0, 0.5), st.floats(1.0, 3.0))
def test_an_axis_is_odd_bounded_and_zero_in_its_dead_zone(value: float, zone: float, curve: float) -> None:
    got = shaped(value, zone, curve)
    assert -1.0 <= got <= 1.0 and got == -shaped(-value, zone, curve)
    assert (got == 0.0) if abs(value) <= zone else (got * value >= 0.0)
    assert abs(got) <= abs(shaped(value * 1.1, zone, curve))


def test_full_deflection_is_full_speed() -> None:
    assert shaped(1.0, 0.2, 2.0) == 1.0 and shaped(-1.7, 0.2, 2.0) == -1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_readings_that_are_not_finite_are_refused(bad: float) -> None:
    joy = JoyMap(axes=(0, 1, -1, -1, -1, -1), deadman=0, gripper_axis=2)
    with pytest.raises(DeviceError, match="axis 1 reads"):
        joy.read([0.0, bad, 0.0], [1])
    with pytest.raises(DeviceError, match="gripper"):
        joy.read([0.0, 0.0, bad], [1])
    with pytest.raises(DeviceError, match="twist.angular.z"):
        read_twist([0, 0, 0], [0, 0, bad], (1.0, 1.0), 0.0, 1.0)


JOY = JoyMap(
    axes=(1, 0, -1, -1, -1, 2), gains=(1, 1, 1, 1, 1, -1), plus=(-1, -1, 3, -1, -1, -1),
    minus=(-1, -1, 4, -1, -1, -1), deadman=0, clutch=1, slow=2, commands={"start": 5}, dead_zone=0.0,
)  # fmt: skip


def test_joy_reads_axes_and_buttons() -> None:
    given = JOY.read([0.25, -0.5, 1.0], [1, 1, 1, 1, 0, 1])
    assert given.twist == (-0.5, 0.25, 1.0, 0.0, 0.0, -1.0)
    assert given.held and given.speed == "slow" and given.pressed == {"start"}
    assert not JOY.read([0, 0, 0], [1, 0, 0, 0, 0, 0]).held  # the clutch is released


def test_a_missing_axis_or_button_is_named() -> None:
    with pytest.raises(DeviceError, match="no axis 2, it has 2; change 'joy.axes'"):
        JOY.read([0.0, 0.0], [0] * 6)
    with pytest.raises(DeviceError, match="no button 5"):
        JOY.read([0, 0, 0], [0] * 5)


def test_a_button_has_one_meaning() -> None:
    with pytest.raises(ValueError, match="button 5 is both 'start' and 'discard'"):
        JoyMap(commands={"start": 5, "discard": 5})


def test_without_a_deadman_button_the_deflection_is_the_deadman() -> None:
    joy = JoyMap(axes=(0, -1, -1, -1, -1, -1), dead_zone=0.1)
    assert joy.read([0.5], []).held and not joy.read([0.05], []).held


# ---- permission ----------------------------------------------------------------------------------


@given(six, st.booleans(), st.floats(0.0, 2.0), turns)
def test_no_action_without_a_held_deadman_or_from_a_silent_device(twist, held, wait, mapping) -> None:
    made = operator()
    made.apply(OperatorInput(twist, held), 0.1)
    action = made.action(0.1 + wait, mapping)
    assert (action is not None) == (held and wait <= 0.3)
    assert (made.reason == "") == (action is not None)


def test_a_deadman_must_be_released_before_it_counts() -> None:
    made = Operator(SPEED, timeout=0.3)
    made.gripper_measured(1.0)
    held = OperatorInput((1.0, 0, 0, 0, 0, 0), held=True)
    made.apply(held, 0.0)
    assert made.action(0.0, BASE) is None and "release the deadman" in made.reason
    made.apply(OperatorInput(), 0.1)
    made.apply(held, 0.2)
    assert made.action(0.2, BASE) is not None
    assert made.action(0.9, BASE) is None and "silent for 0.7 s" in made.reason
    made.apply(held, 1.0)  # it comes back with the deadman still held
    assert made.action(1.0, BASE) is None
    made.apply(OperatorInput(), 1.1)
    made.apply(held, 1.2)
    assert made.action(1.2, BASE) is not None


def test_no_action_before_the_gripper_is_known() -> None:
    made = Operator(SPEED, timeout=0.3)
    made.apply(OperatorInput(), 0.0)
    made.apply(OperatorInput(held=True), 0.0)
    assert made.action(0.0, BASE) is None and made.reason == "no gripper/state yet"


# ---- size and direction --------------------------------------------------------------------------


@given(six, st.sampled_from(["", "slow", "fast"]), turns)
def test_an_action_is_never_larger_than_speed_times_period(twist, speed, mapping) -> None:
    made = operator()
    made.apply(OperatorInput(twist, True, speed), 0.0)
    action = made.action(0.0, mapping)
    assert action is not None and all(map(math.isfinite, action))
    factor = {"slow": 0.25, "fast": 2.0}.get(speed, 1.0)
    assert np.linalg.norm(action[:3]) <= 0.1 * 0.1 * factor * (1 + 1e-9)
    assert Rotation.from_euler("xyz", action[3:6]).magnitude() <= 0.5 * 0.1 * factor * (1 + 1e-6)


def test_full_deflection_moves_at_full_speed_along_the_mapped_axis() -> None:
    made = operator()
    made.apply(OperatorInput((1.0, 0, 0, 0, 0, 0.5), True), 0.0)
    action = made.action(0.0, device_rotation("base", yaw=math.pi / 2))
    np.testing.assert_allclose(action, [0, 0.01, 0, 0, 0, 0.025, 1.0], atol=1e-12)


@pytest.mark.parametrize(
    ("options", "forward"),
    [
        ({"frame": "base"}, [1, 0, 0]),
        ({"frame": "base", "yaw": math.pi}, [-1, 0, 0]),
        # The camera stands in front of the robot and looks back and down at it: away from it is towards the robot.
        ({"frame": "camera", "camera_position": [1.2, 0, 0.6], "camera_look_at": [0.4, 0, 0]}, [-1, 0, 0]),
        ({"frame": "custom", "matrix": [0, -1, 0, 1, 0, 0, 0, 0, 1]}, [0, 1, 0]),
    ],
)
def test_forward_is_where_the_frame_says(options: dict, forward: list[float]) -> None:
    mapping = device_rotation(**options)
    np.testing.assert_allclose(mapping.apply([1, 0, 0]), forward, atol=1e-12)
    np.testing.assert_allclose(mapping.apply([0, 0, 1]), [0, 0, 1], atol=1e-12)


def test_invalid_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="no rotation"):
        device_rotation("custom", matrix=[1, 0, 0, 0, 1, 0, 0, 0, -1])
    with pytest.raises(ValueError, match="straight"):
        device_rotation("camera", camera_position=[0.5, 0, 1], camera_look_at=[0.5, 0, 0])


# ---- gripper and commands ------------------------------------------------------------------------


def test_the_gripper_toggles_once_a_press_under_the_deadman() -> None:
    made = operator()
    press = frozenset({"gripper"})
    for step, (held, pressed, opening) in enumerate(
        [
            (True, press, CLOSED), (True, press, CLOSED), (True, frozenset(), CLOSED), (True, press, OPEN),
            (False, frozenset(), OPEN), (False, press, OPEN), (True, press, OPEN),
        ]
    ):  # fmt: skip
        made.apply(OperatorInput(held=held, pressed=pressed), 0.1 * step)
        assert made.gripper == opening, step


def test_a_gripper_axis_has_hysteresis() -> None:
    made = operator()
    got = []
    for reading in (0.5, 0.39, 0.5, 0.61, 0.5):
        made.apply(OperatorInput(held=True, opening=reading), 0.0)
        got.append(made.gripper)
    assert got == [OPEN, CLOSED, CLOSED, OPEN, OPEN]


def test_commands_come_once_a_press_without_the_deadman() -> None:
    made = Operator(SPEED, timeout=0.3)
    both = frozenset({"start", "success"})
    assert made.apply(OperatorInput(pressed=both), 0.0) == ()  # down in the first message: no press
    assert made.apply(OperatorInput(), 0.1) == ()
    assert made.apply(OperatorInput(pressed=both), 0.2) == ("start", "success")
    assert made.apply(OperatorInput(pressed=both), 0.3) == ()


def test_the_emergency_stop_is_read_from_an_invalid_message() -> None:
    pad = JoyMap(axes=(0, 1, 2, -1, -1, -1), deadman=0, commands={"e_stop": 2, "start": 1})
    assert pad.stop((0, 0, 1)) and not pad.stop((1, 1, 0)) and not pad.stop((1,))
    assert pad.read((0.0, 0.0, 0.0), (0, 1, 1)).pressed == {"start"}, "it is not among the commands"
    with pytest.raises(DeviceError):
        pad.read((math.nan, 0.0, 0.0), (0, 0, 1))
    assert not JoyMap().stop((1, 1, 1))


def test_a_key_is_held_for_a_while_and_commands_do_not_repeat() -> None:
    keys = Keyboard(hold=0.25)
    assert keys.press("w", 0.0) == "" and keys.press("L", 0.1) == ""
    assert keys.input(0.2) == OperatorInput((1, 0, 0, 0, 0, -1), True)
    assert keys.input(0.3) == OperatorInput((0, 0, 0, 0, 0, -1), True)
    assert keys.input(0.36) == OperatorInput()
    keys.press("1", 0.4)
    assert keys.input(0.4).speed == "slow"
    assert keys.press(" ", 1.0) == "gripper" and keys.input(1.1).held
    assert keys.press(" ", 1.0 + REPEAT_DELAY / 2) == ""
    assert keys.press("enter", 2.0) == "start" and keys.press("escape", 2.0) == "e_stop"
    assert not keys.input(3.0).held


# ---- leader --------------------------------------------------------------------------------------


def pose(position, rotation: Rotation | None = None) -> LeaderPose:
    return LeaderPose(np.array(position, float), rotation or Rotation.identity())


hand = st.lists(st.tuples(st.tuples(*[st.floats(-0.004, 0.004)] * 3), st.tuples(*[st.floats(-0.02, 0.02)] * 3)))


@given(hand, turns, st.floats(0.3, 2.0))
@settings(max_examples=20)
def test_steps_add_up_to_the_leaders_motion(moves, start, scale) -> None:
    follower = Follower(scale, max_lag=(10.0, 10.0), max_jump=1.0)
    hand = first = pose([0.3, -0.2, 1.0], start)
    follower.update(first)
    assert all(not v.any() for v in follower.step((0.01, 0.05)))  # no jump when the clutch engages
    position, rotation = np.zeros(3), Rotation.identity()
    for move, turn in moves:
        hand = pose(hand.position + move, Rotation.from_rotvec(turn) * hand.rotation)
        follower.update(hand)
        step, turned = follower.step((0.01, 0.05))
        assert np.linalg.norm(step) <= 0.01 * (1 + 1e-9) and np.linalg.norm(turned) <= 0.05 * (1 + 1e-9)
        position, rotation = position + step, Rotation.from_rotvec(turned) * rotation
    for _ in range(200):  # the arm catches up
        step, turned = follower.step((0.01, 0.05))
        position, rotation = position + step, Rotation.from_rotvec(turned) * rotation
    np.testing.assert_allclose(position, scale * (hand.position - first.position), atol=1e-9)
    assert (rotation * first.rotation * hand.rotation.inv()).magnitude() < 1e-6


@given(st.tuples(*[st.floats(-1, 1)] * 3), turns)
@settings(max_examples=30)
def test_the_leader_moves_nothing_with_a_released_clutch(elsewhere, rotation) -> None:
    made = operator(Follower(max_jump=10.0))
    assert made.follower is not None
    made.follower.update(pose([0, 0, 0]))
    made.apply(OperatorInput(held=True), 0.0)
    made.action(0.0, BASE)
    made.apply(OperatorInput(), 0.1)
    assert made.action(0.1, BASE) is None
    made.follower.update(pose(elsewhere, rotation))
    made.apply(OperatorInput(held=True), 0.2)
    np.testing.assert_array_equal(made.action(0.2, BASE)[:6], np.zeros(6))


def test_a_leader_that_jumps_is_not_followed() -> None:
    made = operator(Follower(max_jump=0.15))
    assert made.follower is not None
    made.apply(OperatorInput(held=True), 0.0)
    assert made.action(0.0, BASE) is None and "no pose of the leader" in made.reason
    made.apply(OperatorInput(), 0.1)
    made.apply(OperatorInput(held=True), 0.1)
    made.follower.update(pose([0, 0, 0]))
    assert made.action(0.1, BASE) is not None
    with pytest.raises(DeviceError, match=r"jumped 0.20 m"):
        made.follower.update(pose([0.2, 0, 0]))


def test_lag_beyond_the_limit_is_dropped() -> None:
    follower = Follower(1.0, max_lag=(0.05, 0.5), max_jump=1.0)
    follower.update(pose([0, 0, 0]))
    follower.step((0.01, 0.1))
    follower.update(pose([0.5, 0, 0]))
    total = sum(follower.step((0.01, 0.1))[0][0] for _ in range(100))
    assert total == pytest.approx(0.01 + 0.05)
