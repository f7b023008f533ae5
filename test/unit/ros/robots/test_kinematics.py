"""The WidowX's kinematics: against its published screws, by properties of the solver, and against the simulated arm."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from openvla_ros.geometry import Pose, angle, distance
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_READY
from openvla_ros.robots.kinematics import Kinematics

# Home pose and space screws of wx250s as published in mr_descriptions.py (Interbotix/interbotix_ros_toolboxes).
HOME = np.array([[1, 0, 0, 0.458325], [0, 1, 0, 0], [0, 0, 1, 0.36065], [0, 0, 0, 1.0]])
SCREWS = np.array(
    [[0, 0, 1, 0, 0, 0], [0, 1, 0, -0.11065, 0, 0], [0, 1, 0, -0.36065, 0, 0.04975],
     [1, 0, 0, 0, 0.36065, 0], [0, 1, 0, -0.36065, 0, 0.29975], [1, 0, 0, 0, 0.36065, 0]]
)  # fmt: skip
LOW = np.array([joint.low for joint in WIDOWX_250S.joints])
HIGH = np.array([joint.high for joint in WIDOWX_250S.joints])
ARM = Kinematics(WIDOWX_250S)
share = st.floats(0.02, 0.98)
anywhere = st.tuples(*[share] * 6).map(lambda s: LOW + np.array(s) * (HIGH - LOW))


def published(q):
    """The product of exponentials (Lynch & Park, Modern Robotics, 2017, section 4.1)."""
    made = np.eye(4)
    for (wx, wy, wz, *v), theta in zip(SCREWS, q, strict=True):
        twist = np.array([[0, -wz, wy, v[0]], [wz, 0, -wx, v[1]], [-wy, wx, 0, v[2]], [0, 0, 0, 0]])
        made = made @ expm(twist * theta)
    made = made @ HOME
    return Pose.of(made[:3, 3], Rotation.from_matrix(made[:3, :3]).as_quat())


@settings(max_examples=60)
@given(anywhere)
def test_forward_kinematics_match_the_published_screws(q):
    ours, theirs = ARM.forward(q.tolist()), published(q)
    assert distance(ours, theirs) < 1e-9 and angle(ours, theirs) < 1e-7


@settings(max_examples=100)
@given(anywhere, st.tuples(*[st.floats(-0.05, 0.05)] * 6))
def test_a_nearby_pose_is_reached_within_the_joint_ranges(q, shift):
    near = np.clip(q + np.array(shift), LOW + 0.04, HIGH - 0.04)
    start = np.clip(q, LOW + 0.04, HIGH - 0.04)
    found = ARM.solve(ARM.forward(near.tolist()), start.tolist(), 200)
    reached = np.array(found.positions)
    assert np.all(reached >= LOW + 0.03 - 1e-9) and np.all(reached <= HIGH - 0.03 + 1e-9)
    assert found.distance < 2e-3 and found.angle < 1e-2


@settings(max_examples=60)
@given(st.tuples(*[st.floats(-1.0, 1.0)] * 3), st.tuples(*[st.floats(-3.0, 3.0)] * 3))
def test_an_unreachable_pose_gives_bounded_joints_and_an_error(position, turn):
    goal = Pose.of(position, Rotation.from_rotvec(turn).as_quat())
    found = ARM.solve(goal, WIDOWX_READY)
    q = np.array(found.positions)
    assert np.all(np.isfinite(q)) and np.all(q >= LOW) and np.all(q <= HIGH)
    assert distance(ARM.forward(found.positions), goal) == pytest.approx(found.distance, abs=1e-9)
    if np.linalg.norm(np.array(position) - [0, 0, 0.11]) > 0.85:
        assert found.distance > 0.05


def test_joints_move_slowly_through_the_wrist_singularity():
    """At wrist_angle 0 forearm_roll and wrist_rotate are collinear: 2 mm steps need only small joint motion."""
    q = np.array([0.0, -0.3, 0.4, 0.0, 0.3, 0.0])
    pose, found = ARM.forward(q.tolist()), tuple(q)
    for i in range(60):
        goal = Pose.of((pose.position[0], pose.position[1] + 0.001 * i, pose.position[2] + 0.002 * i), pose.quaternion)
        before, found = found, ARM.solve(goal, found).positions
        assert max(abs(a - b) for a, b in zip(found, before, strict=True)) < 0.25


def test_malformed_joint_positions_are_refused():
    with pytest.raises(ValueError, match="no joint positions of wx250s: .* for waist"):
        ARM.forward([0.0] * 5)
    with pytest.raises(ValueError, match="no joint positions"):
        ARM.forward([0.0, float("nan"), 0.0, 0.0, 0.0, 0.0])


def test_the_simulated_arm_agrees_with_the_kinematics():
    from openvla_ros.sim.widowx_model import build
    from openvla_ros.sim.widowx_scene import WidowXScene

    model = build().compile()
    for joint in WIDOWX_250S.joints:
        assert tuple(model.joint(joint.name).range) == pytest.approx((joint.low, joint.high))
    scene = WidowXScene()
    assert distance(Pose.of(*scene.ee_pose()), ARM.forward(scene.joint_positions()[:6])) < 1e-6
    start, goal = scene.joint_positions()[:6], scene.joint_positions()[:6] + 0.2
    for duration, early in ((2.0, 0.3), (0.2, 0.05)):
        scene.reset(0)
        scene.profile_time = duration
        scene.set_joints(goal)
        scene.step(early)
        assert np.all(np.abs(scene.joint_positions()[:6] - start) < 0.1)  # not there yet
        scene.step(duration + 0.5)
        assert scene.joint_positions()[:6] == pytest.approx(goal, abs=0.03)


def test_the_simulated_gripper_is_slow_and_limits_its_pwm():
    from openvla_ros.sim.widowx_scene import WidowXScene

    scene = WidowXScene()
    scene.set_pwm(-250)
    scene.step(0.2)
    assert 0.2 < scene.gripper_opening() < 0.95
    scene.step(1.0)
    assert scene.gripper_opening() < 0.02
    with pytest.raises(ValueError, match="PWM 900"):
        scene.set_pwm(900)
