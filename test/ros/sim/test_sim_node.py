"""The simulator as a real process, with the real bridge: the scripted expert lifts the cube through ROS."""

from __future__ import annotations

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import ActionChunk, SafetyState, SceneScore
from openvla_msgs.srv import ResetScene
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState

from openvla_policy.contract.camera import to_rgb
from openvla_ros.geometry import Pose
from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.qos import LATCHED, SENSOR, STATE

pytestmark = pytest.mark.ros


def text(name: str, value: str) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value))


def test_the_expert_lifts_the_named_cube_through_the_bridge(start_stack, listen, call, spin_until, meet):
    start_stack(
        {"sim_node": {"expert.role": "act", "real_time_factor": 4.0, "camera.rate": 2.0, "autostart": True},
         "bridge_node": {"autostart": True, "watchdog.state": 60.0}},  # (wall time: a busy machine cuts no action off)
        policy=False, manager=False,
    )  # fmt: skip
    scores, safe = listen(SceneScore, "sim/score", LATCHED), listen(SafetyState, "safety/state", LATCHED)
    acted, labels = listen(ActionChunk, "policy/action_chunk", STATE), listen(ActionChunk, "expert/action_chunk", STATE)
    images = listen(Image, "camera/image_raw", SENSOR)
    spin_until(lambda: safe and safe[-1].state == SafetyState.READY, 180.0, "the bridge to be READY")
    spin_until(lambda: scores and images, 60.0, "the simulator")  # no actions before the first reset
    meet("sim_node")
    for seed, target in ((1, "green"), (2, "blue")):
        answer = call(ResetScene, "sim/reset", seed=seed, target=target)
        assert answer.success, answer.message
        assert answer.instruction == f"lift the {target} cube" and list(answer.objects) == ["red", "green", "blue"]
        spin_until(
            lambda s=seed: scores and scores[-1].seed == s and not scores[-1].done, 20.0, "the new scene's score"
        )
        spin_until(lambda: scores[-1].done, 180.0, f"the {target} cube to be lifted")
        assert dict(zip(scores[-1].objects, scores[-1].lifted, strict=True)) == {
            c: c == target for c in scores[-1].objects
        }
    # Every executed action answers a picture that was published and labelled, taken after the action before it.
    pictures = {conversions.stamp_ns(m.header.stamp) for m in images}
    labelled = {conversions.stamp_ns(m.observation_stamp) for m in labels}
    stamps = [conversions.stamp_ns(m.observation_stamp) for m in acted]
    assert len(acted) >= 8 and stamps == sorted(set(stamps))
    assert set(stamps) <= labelled and len(set(stamps) & pictures) >= len(stamps) - 2
    executed = {conversions.stamp_ns(m.executed_observation_stamp) for m in safe}
    assert len(set(stamps) & executed) >= len(stamps) - 3  # the reset cuts one off, the end another
    assert {m.source for m in acted} == {"expert"}
    assert not [m.reason for m in safe if m.refused], "no chunk of the expert was refused"


def test_camera_seeds_and_faults(start_stack, listen, call, spin_until):
    start_stack(
        {"sim_node": {"autostart": True, "camera.rate": 10.0, "real_time_factor": 2.0}}, policy=False, manager=False
    )
    images, infos = (
        listen(Image, "camera/image_raw", SENSOR),
        listen(CameraInfo, "camera/camera_info", SENSOR),
    )
    jpegs = listen(CompressedImage, "camera/image_raw/compressed", SENSOR)
    poses, grips = (
        listen(PoseStamped, "robot/ee_pose", SENSOR),
        listen(JointState, "gripper/state", SENSOR),
    )
    clock, joints = listen(Clock, "/clock", SENSOR), listen(JointState, "joint_states", SENSOR)

    def picture():
        """One taken from now on: after five that may wait in the queue, and one that was being taken."""
        images.clear()
        jpegs.clear()
        spin_until(lambda: min(len(images), len(jpegs)) >= 7, 60.0, "pictures")
        return to_rgb(images[-1])

    def reset(seed):
        answer = call(ResetScene, "sim/reset", seed=seed, target="")
        assert answer.success and answer.instruction == ""
        return picture()

    first, other, again = reset(5), reset(6), reset(5)
    assert first.shape[2] == 3 and first.std() > 10
    assert np.abs(first.astype(int) - again).mean() < 0.5 < np.abs(first.astype(int) - other).mean()
    spin_until(lambda: infos and poses and grips and joints and clock, 30.0, "the other topics")
    info = infos[-1]
    assert (info.height, info.width) == first.shape[:2] and info.k[0] == info.k[4] > 0 and info.k[2] == info.width / 2
    assert np.abs(to_rgb(jpegs[-1]).astype(int) - again).mean() < 4
    assert grips[-1].position[0] > 0.9 and len(joints[-1].position) == 7
    pose, stamp = conversions.read_pose(poses[-1])
    assert (
        isinstance(pose, Pose)
        and 0.2 < pose.position[0] < 0.8
        and abs(stamp - conversions.stamp_ns(clock[-1].clock)) < 5e8
    )
    times = [conversions.stamp_ns(c.clock) for c in clock]
    assert times == sorted(times), "a reset does not turn time back"

    def camera(mode):
        assert (
            call(SetParameters, "sim_node/set_parameters", parameters=[text("camera.mode", mode)]).results[0].successful
        )
        return picture()

    assert camera("black").max() == 0
    frozen = camera("frozen")
    stamp = conversions.stamp_ns(images[-1].header.stamp)
    assert np.array_equal(frozen, reset(6)), "the same picture over and over,"
    assert conversions.stamp_ns(images[-1].header.stamp) > stamp, "with fresh stamps"
    assert np.abs(camera("normal").astype(int) - other).mean() < 0.5
    refused = call(SetParameters, "sim_node/set_parameters", parameters=[text("camera.mode", "blurred")]).results[0]
    assert not refused.successful and "'normal', 'black', 'frozen'" in refused.reason
    wrong = call(ResetScene, "sim/reset", seed=1, target="purple")
    assert not wrong.success and wrong.message == "target 'purple' is not one of red, green, blue"
