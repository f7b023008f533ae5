"""The simulator without ROS: physics, expert, scorer, camera."""

from __future__ import annotations

import os

os.environ.setdefault("MUJOCO_GL", "osmesa")

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.spatial.transform import Rotation

from openvla_ros.sim.expert import Expert, ExpertConfig
from openvla_ros.sim.scene import CameraConfig, Scene, SceneConfig
from openvla_ros.sim.scoring import Scorer


@pytest.fixture(scope="module")
def scene():
    made = Scene(SceneConfig(camera=CameraConfig(width=96, height=96)))
    yield made
    made.close()


def execute(scene: Scene, action: np.ndarray, scorer: Scorer) -> None:
    """Blocking control in its simplest form: the gripper first, then a ramp to the target and time to settle."""
    position, quaternion = scene.ee_pose()
    goal = (Rotation.from_euler("xyz", action[3:6]) * Rotation.from_quat(quaternion)).as_quat()
    if abs(action[6] - scene.gripper_opening()) > 0.3:
        scene.set_gripper(action[6])
        scene.step(0.4)
    for share in np.linspace(0.05, 1.0, 20):
        scene.set_target(position + share * action[:3], goal)
        scene.step(0.02)
    for _ in range(6):
        scene.step(0.05)
        scorer.update()


@pytest.mark.parametrize(("seed", "target"), [(1_000_001, "red"), (1_000_002, "green"), (1_000_003, "blue")])
def test_the_expert_lifts_its_target_and_no_other_cube(scene, seed, target):
    expert, scorer = Expert(scene), Scorer(scene)
    scene.reset(seed)
    for _ in range(30):
        execute(scene, expert.action(target), scorer)
        if scorer.lifted[target]:
            break
    assert scorer.lifted == {name: name == target for name in scene.objects}
    assert target not in scorer.disturbed


def test_a_pushed_cube_is_disturbed(scene):
    scene.reset(11)
    scorer = Scorer(scene)
    assert scorer.disturbed == ()
    cube, _ = scene.object_pose("green")
    _, down = scene.ee_pose()
    scene.set_gripper(0.0)
    for place in ((cube[0], cube[1] - 0.09, 0.1), (cube[0], cube[1] - 0.09, 0.02), (cube[0], cube[1], 0.02)):
        scene.set_target(np.array(place), down)
        scene.step(0.8)
        scorer.update()
    assert "green" in scorer.disturbed and not scorer.lifted["green"]


def test_without_actions_nothing_is_lifted(scene):
    scorer = Scorer(scene)
    scene.reset(5)
    for _ in range(10):
        execute(scene, np.array([0, 0, 0, 0, 0, 0, 1.0]), scorer)
    assert not any(scorer.lifted.values())


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=25)
def test_every_seed_is_reachable_separated_and_repeatable(scene, seed):
    def state():
        scene.reset(seed)
        poses = np.concatenate([scene.object_pose(name)[0] for name in scene.objects])
        return np.concatenate([poses, *scene.ee_pose(), scene.joint_positions()])

    first = state()
    np.testing.assert_array_equal(first, state())
    centres = first[:9].reshape(3, 3)[:, :2]
    gaps = [np.linalg.norm(a - b) for i, a in enumerate(centres) for b in centres[:i]]
    assert min(gaps) >= scene.config.cube_separation
    start = np.abs(first[9:12] - scene.config.start_position)
    assert (start <= np.array(scene.config.start_spread) + 1e-4).all()


@given(seed=st.integers(0, 1000), index=st.integers(0, 2))
@settings(max_examples=25)
def test_expert_actions_are_bounded_and_rotate_about_the_vertical(scene, seed, index):
    config = ExpertConfig()
    scene.reset(seed)
    expert = Expert(scene, config)
    for action in (expert.action(scene.objects[index]), expert.wander(np.random.default_rng(seed))):
        assert action.shape == (7,) and np.abs(action[:3]).max() <= config.max_step
        assert (action[3:5] == 0).all() and abs(action[5]) <= config.max_turn and action[6] in (0.0, 1.0)


def test_a_target_is_reached_and_kept(scene):
    scene.reset(3)
    position, quaternion = scene.ee_pose()
    goal = position + np.array([0.03, -0.02, 0.02])
    turned = (Rotation.from_euler("z", 0.1) * Rotation.from_quat(quaternion)).as_quat()
    scene.set_target(goal, turned)
    scene.step(1.0)
    reached, orientation = scene.ee_pose()
    np.testing.assert_allclose(reached, goal, atol=1e-3)
    assert (Rotation.from_quat(orientation) * Rotation.from_quat(turned).inv()).magnitude() < 5e-3


def test_the_gripper_closes_and_opens(scene):
    scene.reset(3)
    assert scene.gripper_opening() > 0.95
    scene.set_gripper(0.0)
    scene.step(1.0)
    assert scene.gripper_opening() < 0.05


def test_the_camera_shows_the_reset_and_can_be_moved(scene):
    scene.reset(1)
    first = scene.render().copy()
    scene.reset(2)
    other = scene.render().copy()
    scene.reset(1)
    np.testing.assert_array_equal(first, scene.render())
    assert (first != other).mean() > 0.02
    camera = scene.config.camera
    scene.move_camera(np.array([0.9, -0.5, 0.7]), np.array(camera.look_at))
    assert (first != scene.render()).mean() > 0.2
    scene.move_camera(np.array(camera.position), np.array(camera.look_at))
    np.testing.assert_array_equal(first, scene.render())


def test_the_camera_matrix_projects_a_cube_to_its_pixel(scene):
    """The centre of a cube is at the pixel that intrinsics and camera pose give."""
    scene.reset(1)
    camera, centre = scene.config.camera, scene.object_pose("red")[0]
    forward = np.array(camera.look_at) - np.array(camera.position)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])  # optical frame: x right, y down, z forward
    u, v, depth = scene.camera_matrix() @ rotation @ (centre - np.array(camera.position))
    red, green, blue = scene.render()[int(v / depth), int(u / depth)].astype(int)
    assert red > 2 * max(green, blue)


@pytest.mark.parametrize("target", [(np.full(3, np.nan), np.array([0, 0, 0, 1.0])), (np.zeros(3), np.zeros(4))])
def test_a_target_that_is_no_pose_is_refused(scene, target):
    with pytest.raises(ValueError, match="is no pose"):
        scene.set_target(*target)


def test_an_unknown_cube_is_named_with_the_choices(scene):
    with pytest.raises(ValueError, match="no cube is called 'yellow': choose one of red, green, blue"):
        Expert(scene).action("yellow")
