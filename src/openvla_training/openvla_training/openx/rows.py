"""The registry's rows: Open X-Embodiment, and what the reference fine-tunes on.

Sources: TFDS for keys, shapes and versions (catalog pages; the builders of bridge_orig, droid and LIBERO); the dataset
overview of Open X-Embodiment for rates; the reference for the standardisation (prismatic/vla/datasets/rlds/oxe); the
datasets' own documentation for frames and kinds of motion. Where the reference inverts a gripper without limiting it to
0 .. 1, so does the row: `invert`, not `gripper`.

Besides the paper's mixture there are all datasets of Open X-Embodiment whose schemas are published. Two of these rows
differ from the reference, which reads cmu_play_fusion's numbers from the wrong columns (parts of the quaternion as
angles, the end of the episode as gripper) and stanford_mask_vit's yaw as a roll.
"""

from __future__ import annotations

from typing import Any

from openvla_training.openx.dataset import Dataset, gripper_of

EXTERNAL = "_converted_externally_to_rlds"
_SEVEN = ("action[0:6]", "gripper(action[6])")


def make(name: str, action: tuple[str, ...], version: str | None = "0.1.0", **facts: Any) -> Dataset:
    """Build a row; a single word may stand for a list of one, and the gripper's convention is looked up by name."""
    for key in ("camera", "state", "language", "filters"):
        if isinstance(facts.get(key), str):
            facts[key] = (facts[key],)
    return Dataset(name=name, action=action, version=version, gripper=gripper_of(name), **facts)


_RT1 = ("action/world_vector", "action/rotation_delta", "gripper(action/gripper_closedness_action)")
_FLAT = ("action[0:6]", "gripper(action[-1])")
_FLAT_UNLIMITED = ("action[0:6]", "invert(action[-1])")
_QUATERNION = ("action[0:3]", "angles(action[3:7])", "gripper(action[-1])")
_SEEN = ("observation/natural_language_instruction",)  # where early datasets keep the instruction


def _bridge(name: str, tfds: str = "", version: str | None = "1.0.0") -> Dataset:
    return make(
        name, _FLAT, version, tfds=tfds, camera="image_0", state=_POSE, layout="pos_euler", frame="base", rate=5.0,
        filters=("first_step", "reached_state"), robot="WidowX 250", transitions=2_135_463,
    )  # fmt: skip


def _libero(suite: str) -> Dataset:
    return make(
        f"libero_{suite}_no_noops", _FLAT, "1.0.0", wrist="wrist_image", layout="pos_euler", rate=20.0, frame="base",
        state=("observation/state[0:6]", "zeros(1)", "observation/state[-2:]"), robot="Franka Panda (simulated)",
    )  # fmt: skip


_POSE = ("observation/state[0:6]", "zeros(1)", "observation/state[-1]")
_DROID: dict[str, Any] = {
    "action": ("action_dict/cartesian_velocity", "invert(action_dict/gripper_position)"),
    "version": "1.0.0",
    "wrist": "wrist_image_left",
    "state": ("observation/cartesian_position", "observation/gripper_position"),
    "layout": "pos_euler",
    "frame": "base",
    "motion": "velocity",
    "rate": 15.0,
    "robot": "Franka Panda",
}

_ROWS = [
    # ---- the paper's mixture (Table 3), in its order ------------------------------------------------------------
    make(
        "fractal20220817_data", _RT1, language=_SEEN, robot="Everyday Robots", rate=3.0, frame="base",
        state=("observation/base_pose_tool_reached", "observation/gripper_closed"), layout="pos_quat",
        transitions=3_786_400,
    ),
    make(
        "kuka", _RT1, language=_SEEN, robot="KUKA iiwa", rate=10.0, layout="pos_quat", filters="success",
        state=("observation/clip_function_input/base_pose_tool_reached", "observation/gripper_closed"),
        transitions=2_455_879,
    ),
    _bridge("bridge_orig"),
    make(
        "taco_play", ("action/rel_actions_world[0:6]", "gripper(action/rel_actions_world[-1])"), language=_SEEN,
        camera="rgb_static", wrist="rgb_gripper", robot="Franka Panda", rate=15.0, frame="base", layout="pos_euler",
        state=("observation/robot_obs[0:6]", "zeros(1)", "observation/robot_obs[7:8]"), transitions=237_798,
    ),
    make(
        "jaco_play", ("action/world_vector", "zeros(3)", "gripper(action/gripper_closedness_action)"), language=_SEEN,
        wrist="image_wrist", robot="Kinova Jaco 2", rate=10.0, layout="pos_euler", transitions=77_965,
        state=("observation/end_effector_cartesian_pos[0:6]", "zeros(1)", "observation/end_effector_cartesian_pos[-1]"),
    ),
    make(
        "berkeley_cable_routing", ("action/world_vector", "action/rotation_delta", "zeros(1)"), language=_SEEN,
        wrist="wrist45_image", robot="Franka Panda", rate=10.0, motion="velocity", layout="joint",
        state=("observation/robot_state", "zeros(1)"), transitions=42_328,
    ),
    make("roboturk", _RT1, language=_SEEN, camera="front_rgb", robot="Sawyer", rate=10.0, transitions=187_507),
    make(
        "viola", _RT1, language=_SEEN, camera="agentview_rgb", wrist="eye_in_hand_rgb", robot="Franka Panda", rate=20.0,
        state=("observation/joint_states", "observation/gripper_states"), layout="joint", transitions=76_324,
    ),
    make(
        "berkeley_autolab_ur5", _RT1, language=_SEEN, wrist="hand_image", robot="UR5", rate=5.0, layout="pos_quat",
        state=("observation/robot_state[6:14]",), transitions=97_939,
    ),
    make(
        "toto", ("action/world_vector", "action/rotation_delta", "gripper(action/open_gripper)"), language=_SEEN,
        robot="Franka Panda", rate=30.0, motion=None, state=("observation/state", "zeros(1)"), layout="joint",
        transitions=325_699,
    ),
    make(
        "language_table", ("action", "zeros(4)", "ones(1)"), language="observation/instruction", characters=True,
        camera="rgb", robot="xArm 6", rate=10.0, state=("observation/effector_translation", "zeros(6)"),
        layout="pos_euler", transitions=7_045_476,
    ),
    make(
        "stanford_hydra_dataset" + EXTERNAL, _FLAT_UNLIMITED, wrist="wrist_image", robot="Franka Panda", rate=10.0,
        bgr=True, state=("observation/state[0:3]", "observation/state[7:10]", "zeros(1)", "observation/state[-3:-2]"),
        layout="pos_euler", transitions=358_234,
    ),
    make(
        "austin_buds_dataset" + EXTERNAL, _FLAT, wrist="wrist_image", robot="Franka Panda", rate=20.0,
        state=("observation/state[0:8]",), layout="joint", transitions=34_112,
    ),
    make(
        "nyu_franka_play_dataset" + EXTERNAL, ("action[-8:-2]", "gripper(action[-2:-1])"), robot="Franka Panda",
        rate=3.0, state=("observation/state[-6:]", "zeros(2)"), layout="pos_euler", transitions=44_875,
    ),
    make(
        "furniture_bench_dataset" + EXTERNAL, _QUATERNION, wrist="wrist_image", robot="Franka Panda", rate=10.0,
        motion="velocity", state=("observation/state[0:7]", "observation/state[-1]"), layout="pos_quat",
        transitions=3_948_057,
    ),
    make(
        "ucsd_kitchen_dataset" + EXTERNAL, ("action[0:6]", "gripper(action[6])"), robot="xArm 7", rate=2.0,
        motion="position", state=("observation/state[0:7]", "zeros(1)"), layout="joint", transitions=3_970,
    ),
    make(
        "austin_sailor_dataset" + EXTERNAL, _FLAT, wrist="wrist_image", robot="Franka Panda", rate=20.0,
        state=("observation/state",), layout="pos_quat", transitions=353_094,
    ),
    make(
        "austin_sirius_dataset" + EXTERNAL, _FLAT, wrist="wrist_image", robot="Franka Panda", rate=20.0,
        state=("observation/state",), layout="joint", transitions=279_939,
    ),
    make(
        "dlr_edan_shared_control" + EXTERNAL, _FLAT_UNLIMITED, robot="DLR EDAN", rate=5.0, motion=None,
        state=("observation/state", "zeros(1)"), layout="pos_euler", transitions=8_928,
    ),
    make(
        "iamlab_cmu_pickup_insert" + EXTERNAL, _QUATERNION, wrist="wrist_image", robot="Franka Panda", rate=20.0,
        motion="position", state=("observation/state[0:8]",), layout="joint", transitions=146_241,
    ),
    make(
        "utaustin_mutex", _FLAT, wrist="wrist_image", robot="Franka Panda", rate=20.0, bgr=True,
        state=("observation/state[0:8]",), layout="joint", transitions=361_883,
    ),
    make(
        "berkeley_fanuc_manipulation", ("action", "invert(observation/state[6])"), wrist="wrist_image", bgr=True,
        robot="FANUC LR Mate 200iD", rate=10.0, layout="joint", transitions=62_613,
        state=("observation/state[0:6]", "zeros(1)", "observation/state[6]"),
    ),
    make(
        "cmu_stretch", ("action[0:6]", "gripper(action[6])"), robot="Hello Robot Stretch", rate=10.0,
        motion="position", state=("observation/state[0:3]", "zeros(4)", "observation/state[-1]"), layout="pos_euler",
        transitions=25_016,
    ),
    make(
        "bc_z",
        (
            "action/future/xyz_residual[0:3]", "action/future/axis_angle_residual[0:3]",
            "gripper(action/future/target_close[0])",
        ),
        language=_SEEN, robot="Everyday Robots", rate=10.0, frame="base", layout="pos_euler", transitions=6_015_535,
        state=(
            "observation/present/xyz", "observation/present/axis_angle", "zeros(1)", "observation/present/sensed_close",
        ),
    ),
    make(
        "fmb_dataset", _FLAT, tfds="fmb", camera="image_side_1", wrist="image_wrist_1", robot="Franka Panda", rate=10.0,
        motion=None, state=("observation/eef_pose", "observation/state_gripper_pose"), layout="pos_quat",
        transitions=1_137_459,
    ),
    make(
        "dobbe", _FLAT, camera="wrist_image", third_person=False, robot="Hello Robot Stretch",
        rate=3.75, motion=None, state=("observation/state",), layout="pos_euler", transitions=1_139_911,
    ),
    make(
        "droid", **_DROID, camera=("exterior_image_1_left", "exterior_image_2_left"), filters="zero_actions",
        language=("language_instruction", "language_instruction_2", "language_instruction_3"), transitions=27_044_326,
    ),
    # ---- further ones of Octo's mixture, of the Bridge family, and what the reference fine-tunes on ----------------
    make(
        "nyu_door_opening_surprising_effectiveness", _RT1, language=_SEEN, third_person=False, motion="velocity",
        wrist="image", robot="Hello Robot Stretch", rate=3.0,
    ),
    make(
        "bridge_oxe", ("action/world_vector", "action/rotation_delta", "gripper(action/open_gripper)"), tfds="bridge",
        language=_SEEN, state=_POSE, layout="pos_euler", frame="base", rate=5.0, robot="WidowX 250",
        filters=("first_step", "reached_state"),
    ),
    _bridge("bridge_dataset"),
    make("droid_wipe", **_DROID, camera="exterior_image_2_left"),
    *(_libero(suite) for suite in ("spatial", "object", "goal", "10", "90")),
]  # fmt: skip

FURTHER = (
    make(
        "columbia_cairlab_pusht_real",
        ("action/world_vector", "action/rotation_delta", "gripper(action/gripper_closedness_action)"),
        language="observation/natural_language_instruction", wrist="wrist_image", robot="UR5", rate=10.0,
        state=("observation/robot_state", "zeros(6)"), layout="pos_euler",
    ),
    make(
        "stanford_kuka_multimodal_dataset" + EXTERNAL, ("action[0:3]", "zeros(3)", "gripper(action[3])"),
        robot="KUKA iiwa", rate=20.0, motion="position", layout="pos_quat",
        state=("observation/ee_position", "observation/ee_orientation", "zeros(1)"),
    ),
    make("nyu_rot_dataset" + EXTERNAL, _SEVEN, robot="xArm 7", rate=3.0, state=_POSE, layout="pos_euler"),
    make(
        "maniskill_dataset" + EXTERNAL, _SEVEN, wrist="wrist_image", robot="Franka Panda (simulated)", rate=20.0,
        state=("observation/tcp_pose", "observation/state[7:8]"), layout="pos_quat",
    ),
    make(
        "cmu_franka_exploration_dataset" + EXTERNAL, _SEVEN, camera="highres_image", robot="Franka Panda", rate=10.0,
        motion="position",
    ),
    make(
        "ucsd_pick_and_place_dataset" + EXTERNAL, ("action[0:3]", "zeros(3)", "gripper(action[3])"), robot="xArm 7",
        rate=3.0, motion="velocity", state=_POSE, layout="pos_euler",
    ),
    make(
        "asu_table_top" + EXTERNAL, _SEVEN, robot="UR5", rate=12.5, motion=None, layout="pos_euler",
        state=("ground_truth_states/EE", "zeros(1)", "observation/state[-1]"),
    ),
    make(
        "cmu_play_fusion", ("action[0:3]", "angles(action[3:7])", "gripper(action[7])"), robot="Franka Panda", rate=5.0,
        state="observation/state", layout="joint",
    ),
    make(
        "stanford_robocook" + EXTERNAL, _SEVEN, camera="image_1", robot="Franka Panda", rate=5.0, motion="velocity",
        state=_POSE, layout="pos_euler",
    ),
    make(
        "kaist_nonprehensile" + EXTERNAL, ("action[0:6]", "zeros(1)"), robot="Franka Panda", rate=10.0, frame="base",
        state=("observation/state[-7:]", "zeros(1)"), layout="pos_quat",
    ),
    make(
        "tokyo_u_lsmo" + EXTERNAL, _SEVEN, robot="Cobotta", rate=10.0, motion="position", state=_POSE,
        layout="pos_euler",
    ),
    make(
        "dlr_sara_pour" + EXTERNAL, _SEVEN, robot="DLR SARA", rate=10.0, motion="position", layout="pos_euler",
        state=("observation/state", "zeros(2)"),
    ),
    make(
        "dlr_sara_grid_clamp" + EXTERNAL, _SEVEN, robot="DLR SARA", rate=10.0, motion="position", layout="pos_euler",
        state=("observation/state[0:6]", "zeros(2)"),
    ),
    make(
        "imperialcollege_sawyer_wrist_cam", _SEVEN, wrist="wrist_image", third_person=False, robot="Sawyer", rate=10.0,
        frame="wrist", state=("zeros(7)", "observation/state"),
    ),
    make(
        "stanford_mask_vit" + EXTERNAL, ("action[0:3]", "zeros(2)", "action[3]", "gripper(action[4])"), robot="Sawyer",
        layout="pos_euler",
        state=(
            "observation/end_effector_pose[0:3]", "zeros(2)", "observation/end_effector_pose[3]", "zeros(1)",
            "observation/end_effector_pose[4]",
        ),
    ),
    make("uiuc_d3field", ("action", "zeros(4)"), camera="image_1", robot="Kinova Gen3", rate=1.0),
    make(
        "utokyo_xarm_pick_and_place" + EXTERNAL, _SEVEN, wrist="hand_image", robot="xArm 7", rate=10.0,
        motion="position", state=("observation/end_effector_pose", "zeros(2)"), layout="pos_euler",
    ),
    make(
        "utokyo_xarm_bimanual" + EXTERNAL, ("action[7:13]", "gripper(action[13])"), arms=2, robot="two xArm 7",
        rate=10.0, motion="position", state=("observation/pose_r", "zeros(2)"), layout="pos_euler",
    ),
    *(
        make(
            f"utokyo_pr2_{task}{EXTERNAL}", _SEVEN, robot="PR2", rate=10.0, motion="position", state=_POSE,
            layout="pos_euler",
        )
        for task in ("opening_fridge", "tabletop_manipulation")
    ),
)  # fmt: skip

ROWS: dict[str, Dataset] = {row.name: row for row in (*_ROWS, *FURTHER)}
