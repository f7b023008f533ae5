"""Workspace box, keep-out boxes, cone and yaw: what comes out is allowed, and so is the whole way there."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.geometry import Pose, angle, distance, interpolate
from openvla_ros.safety.zones import Cone, KeepOut, Zones, clamp, crossed, outside, reachable, swing_twist

POST = KeepOut("post", (0.4, -0.05, -0.1), (0.5, 0.05, 0.3))
CONE = Cone(angle=0.5, yaw_low=-1.0, yaw_high=1.5)
ZONES = Zones((0.2, -0.3, 0.0), (0.7, 0.3, 0.5), (POST,), CONE)
DOWN = Pose.of((0.3, 0.0, 0.2), (1.0, 0.0, 0.0, 0.0))
places = st.tuples(st.floats(0.0, 0.9), st.floats(-0.5, 0.5), st.floats(-0.3, 0.8))
turns = st.tuples(st.floats(-3.1, 3.1), st.floats(-1.5, 1.5), st.floats(-3.1, 3.1))
poses = st.builds(lambda p, e: Pose.of(p, Rotation.from_euler("xyz", e).as_quat()), places, turns)


def lean_and_yaw(pose: Pose) -> tuple[float, float]:
    """By scipy and plain vectors: how far the tool leans from straight down, and its turn about that axis."""
    turned = Rotation.from_quat(pose.quaternion) * Rotation.from_quat((1.0, 0.0, 0.0, 0.0)).inv()
    axis = np.array([0.0, 0.0, -1.0])
    leaning = turned.apply(axis)
    lean = math.atan2(float(np.linalg.norm(np.cross(axis, leaning))), float(axis @ leaning))
    if lean > 3.14:
        return lean, 0.0
    side = np.cross(axis, leaning)
    swing = Rotation.from_rotvec(side / np.linalg.norm(side) * lean) if lean > 1e-9 else Rotation.identity()
    return lean, float((swing.inv() * turned).as_rotvec() @ axis)


@given(poses)
def test_lean_and_yaw_match_vector_arithmetic(pose):
    lean, yaw = lean_and_yaw(pose)
    if lean > 3.0:
        return  # upside down the yaw means nothing
    swing, twist = swing_twist(pose.quaternion, CONE)
    assert math.hypot(*swing) == pytest.approx(lean, abs=1e-6)
    assert math.remainder(twist - yaw, 2 * math.pi) == pytest.approx(0.0, abs=1e-5)


@given(poses)
def test_a_clamped_pose_is_inside_box_and_cone(pose):
    kept, names = clamp(pose, ZONES)
    lean, yaw = lean_and_yaw(kept)
    assert all(low <= v <= high for v, low, high in zip(kept.position, ZONES.low, ZONES.high, strict=True))
    assert lean <= 0.5 + 1e-6 and -1.0 - 1e-6 <= yaw <= 1.5 + 1e-6
    assert not [n for n in outside(kept, ZONES) if not n.startswith("keep_out")]
    for axis, value, low, high in zip("xyz", pose.position, ZONES.low, ZONES.high, strict=True):
        assert (f"box_{axis}" in names) == (not low <= value <= high)
    if not names:
        assert distance(kept, pose) == 0.0 and angle(kept, pose) < 1e-6


starts = st.builds(lambda p, e: clamp(Pose.of(p, Rotation.from_euler("xyz", e).as_quat()), ZONES)[0], places, turns)


@given(starts, poses)
def test_the_whole_path_to_a_reachable_pose_is_allowed(start, goal):
    if POST.contains(start.position):
        return
    kept, names = reachable(start, goal, ZONES)
    for i in range(101):
        pose = interpolate(start, kept, i / 100)
        assert not POST.contains(pose.position), "the way leads through the post"
        lean, yaw = lean_and_yaw(pose)
        assert lean <= 0.5 + 2e-3 and -1.0 - 2e-3 <= yaw <= 1.5 + 2e-3  # looked at in 24 places, then searched
    assert not crossed(start.position, kept.position, ZONES) and not outside(kept, ZONES)
    if not names:
        assert distance(kept, goal) == 0.0 and angle(kept, goal) < 1e-6


def test_a_path_ends_before_a_keep_out_box():
    goal = Pose.of((0.6, 0.0, 0.2), DOWN.quaternion)
    kept, names = reachable(DOWN, goal, ZONES)
    assert kept.position == pytest.approx((0.3999, 0.0, 0.2), abs=1e-6) and names == ("keep_out_post",)
    over = Pose.of((0.6, 0.0, 0.4), DOWN.quaternion)
    assert crossed(DOWN.position, over.position, ZONES) == "keep_out_post"
    up, _ = reachable(DOWN, Pose.of((0.3, 0.0, 0.35), DOWN.quaternion), ZONES)
    assert reachable(up, Pose.of((0.6, 0.0, 0.35), DOWN.quaternion), ZONES)[1] == ()
    # Along a face is not through it.
    side = Pose.of((0.3, 0.05, 0.2), DOWN.quaternion)
    assert reachable(side, Pose.of((0.6, 0.05, 0.2), DOWN.quaternion), ZONES)[1] == ()


def test_a_keep_out_box_is_parsed_from_one_line():
    assert KeepOut.parse("post: 0.4, -0.05, -0.1, 0.5, 0.05, 0.3") == POST
    for text in ("post 1 2 3", "post 0 0 0 1 1 nan", "post 0 0 0 1 0 1", ""):
        with pytest.raises(ValueError, match="keep-out box"):
            KeepOut.parse(text)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Zones((0.8, 0, 0), (0.7, 1, 1)), "workspace box"),
        (lambda: Cone(angle=0.0), "cone angle"),
        (lambda: Cone(axis=(0.0, 0.0, 0.0)), "no direction"),
        (lambda: Cone(yaw_low=1.0, yaw_high=0.5), "yaw range"),
    ],
)
def test_contradictory_zones_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
