"""Pose mathematics against scipy's Rotation, for any pose and any delta."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.control import target_pose as tp
from openvla_ros.geometry import Pose
from openvla_ros.robots.static_transforms import axes_in

number = st.floats(-2.0, 2.0)
vector = st.tuples(number, number, number)
turn = st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
poses = st.builds(lambda p, e: Pose.of(p, Rotation.from_euler("xyz", e).as_quat()), vector, turn)
deltas = st.tuples(*[st.floats(-0.3, 0.3)] * 3, *[st.floats(-1.5, 1.5)] * 3)


def same_turn(quaternion, rotation: Rotation) -> bool:
    return (Rotation.from_quat(quaternion) * rotation.inv()).magnitude() < 1e-7


@given(turn)
def test_fixed_axis_angles(angles):
    assert same_turn(tp.from_euler(*angles), Rotation.from_euler("xyz", angles))


@given(poses, poses)
def test_product_rotation_and_angle(a, b):
    ra, rb = Rotation.from_quat(a.quaternion), Rotation.from_quat(b.quaternion)
    assert same_turn(tp.multiply(a.quaternion, b.quaternion), ra * rb)
    np.testing.assert_allclose(tp.rotate(a.quaternion, b.position), ra.apply(b.position), atol=1e-9)
    assert tp.angle(a, b) == pytest.approx((ra * rb.inv()).magnitude(), abs=1e-6)


@given(poses, deltas)
def test_delta_in_the_base_frame(pose, delta):
    moved = tp.compose(pose, delta, tp.BASE)
    np.testing.assert_allclose(moved.position, np.add(pose.position, delta[:3]), atol=1e-12)
    assert same_turn(moved.quaternion, Rotation.from_euler("xyz", delta[3:]) * Rotation.from_quat(pose.quaternion))


@given(poses, deltas)
def test_delta_in_the_end_effector_frame(pose, delta):
    here = Rotation.from_quat(pose.quaternion)
    moved = tp.compose(pose, delta, tp.END_EFFECTOR)
    np.testing.assert_allclose(moved.position, np.add(pose.position, here.apply(delta[:3])), atol=1e-9)
    assert same_turn(moved.quaternion, here * Rotation.from_euler("xyz", delta[3:]))


@given(poses, deltas, turn)
def test_delta_along_the_axes_of_a_camera(pose, delta, mounted):
    camera, here = Rotation.from_euler("xyz", mounted), Rotation.from_quat(pose.quaternion)
    axes = tuple(camera.as_quat())
    turned = camera * Rotation.from_euler("xyz", delta[3:]) * camera.inv()
    moved = tp.compose(pose, delta, tp.BASE, axes)
    np.testing.assert_allclose(moved.position, np.add(pose.position, camera.apply(delta[:3])), atol=1e-9)
    assert same_turn(moved.quaternion, turned * here)
    moved = tp.compose(pose, delta, tp.END_EFFECTOR, axes)
    np.testing.assert_allclose(moved.position, np.add(pose.position, (here * camera).apply(delta[:3])), atol=1e-9)
    assert same_turn(moved.quaternion, here * turned)


@given(poses, poses, st.floats(0.0, 1.0))
def test_interpolation_turns_evenly_about_one_axis(a, b, fraction):
    middle = tp.interpolate(a, b, fraction)
    whole = tp.angle(a, b)
    assert math.hypot(*middle.quaternion) == pytest.approx(1.0, abs=1e-9)
    if whole < math.pi - 1e-3:  # half a turn has two shortest rotations
        assert tp.angle(a, middle) == pytest.approx(fraction * whole, abs=1e-5)
        assert tp.angle(middle, b) == pytest.approx((1 - fraction) * whole, abs=1e-5)
    np.testing.assert_allclose(
        middle.position, np.add(a.position, fraction * np.subtract(b.position, a.position)), atol=1e-9
    )


@given(poses, poses, st.floats(1e-3, 1.0), st.floats(1e-2, 2.0))
def test_towards_exceeds_neither_bounds_nor_goal(start, goal, far, turned):
    reached, cut = tp.towards(start, goal, far, turned)
    assert tp.distance(start, reached) <= far + 1e-9
    assert tp.angle(start, reached) <= turned + 1e-5
    assert cut or reached == goal


@given(poses, poses, st.floats(1e-3, 1.0), st.floats(1e-2, 2.0))
def test_the_following_error_is_limited_in_position_and_orientation(commanded, measured, far, turned):
    kept = tp.limit_following_error(commanded, measured, far, turned)
    assert tp.distance(kept, measured) <= far + 1e-9
    assert tp.angle(kept, measured) <= turned + 1e-5
    if tp.distance(commanded, measured) <= far:
        np.testing.assert_allclose(kept.position, commanded.position, atol=1e-9)


def test_blocked_arms_do_not_wind_up_and_lagging_ones_do_not_drift():
    blocked = commanded = Pose.of((0.5, 0.0, 0.2), (0.0, 0.0, 0.0, 1.0))
    for _ in range(100):
        commanded = tp.compose(
            tp.limit_following_error(commanded, blocked, 0.05, 0.3), (0.02, 0, 0, 0, 0, 0.1), tp.BASE
        )
    assert tp.distance(commanded, blocked) <= 0.07 + 1e-9
    assert tp.angle(commanded, blocked) <= 0.4 + 1e-6
    commanded = blocked
    for _ in range(10):  # always 5 mm behind the command
        lagging = Pose.of(np.subtract(commanded.position, (0.005, 0, 0)), commanded.quaternion)
        commanded = tp.compose(tp.limit_following_error(commanded, lagging, 0.05, 0.3), (0.02, 0, 0, 0, 0, 0), tp.BASE)
    assert commanded.position[0] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("position", "quaternion"),
    [((0, 0), (0, 0, 0, 1)), ((0, 0, math.nan), (0, 0, 0, 1)), ((0, 0, 0), (0, 0, 0, 0)), ((0, 0, 0), (0, 0, 1))],
)
def test_malformed_poses_are_refused(position, quaternion):
    with pytest.raises(ValueError, match="not a pose"):
        Pose.of(position, quaternion)


def test_an_unknown_frame_is_refused():
    with pytest.raises(ValueError, match="'camera' is unknown; known: base, end_effector"):
        tp.compose(Pose.of((0, 0, 0), (0, 0, 0, 1)), [0] * 6, "camera")


@st.composite
def trees(draw):
    """Frames f0 … fn; most are fixed to an earlier one: frame -> parent, and orientation there."""
    count = draw(st.integers(1, 8))
    parents = [draw(st.integers(-1, i - 1)) for i in range(count)]
    return {
        f"f{i}": (f"f{parent}", Rotation.from_euler("xyz", draw(turn)))
        for i, parent in enumerate(parents) if parent >= 0
    }  # fmt: skip


@given(trees(), st.integers(0, 7), st.integers(0, 7))
def test_orientation_across_static_transforms(tree, a, b):
    def root(frame):
        """The root frame of a frame, and its orientation there, by definition."""
        if frame not in tree:
            return frame, Rotation.identity()
        parent, axes = tree[frame]
        top, above = root(parent)
        return top, above * axes

    found = axes_in({f: (parent, tuple(r.as_quat())) for f, (parent, r) in tree.items()}, f"f{a}", f"f{b}")
    (top, axes), (other_top, other_axes) = root(f"f{a}"), root(f"f{b}")
    if top != other_top:
        assert found is None
    else:
        assert found is not None and same_turn(found, other_axes.inv() * axes)


def test_a_loop_of_static_transforms_is_refused():
    with pytest.raises(ValueError, match="camera, mount form a loop"):
        axes_in({"camera": ("mount", tp.IDENTITY), "mount": ("camera", tp.IDENTITY)}, "camera", "base")
