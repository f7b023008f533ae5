"""The registry's further rows: Open X-Embodiment beyond the paper's mixture, as far as its schemas are published.

Two rows are not what the reference makes of them: it reads cmu_play_fusion's numbers from the wrong columns (parts of
the quaternion as angles, the end of the episode as gripper) and takes stanford_mask_vit's yaw for a roll.
"""

from __future__ import annotations

from typing import Any

from openvla_training.openx.dataset import Dataset, gripper_of

EXTERNAL = "_converted_externally_to_rlds"
_FLAT = ("action[0:6]", "gripper(action[6])")
_STATE = ("observation/state[0:6]", "zeros(1)", "observation/state[-1]")


def make(name: str, action: tuple[str, ...], version: str | None = "0.1.0", **facts: Any) -> Dataset:
    """A row; single words stand for lists of one, and the gripper's convention is looked up."""
    for key in ("camera", "state", "language", "filters"):
        if isinstance(facts.get(key), str):
            facts[key] = (facts[key],)
    return Dataset(name=name, action=action, version=version, gripper=gripper_of(name), **facts)


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
    make("nyu_rot_dataset" + EXTERNAL, _FLAT, robot="xArm 7", rate=3.0, state=_STATE, layout="pos_euler"),
    make(
        "maniskill_dataset" + EXTERNAL, _FLAT, wrist="wrist_image", robot="Franka Panda (simulated)", rate=20.0,
        state=("observation/tcp_pose", "observation/state[7:8]"), layout="pos_quat",
    ),
    make(
        "cmu_franka_exploration_dataset" + EXTERNAL, _FLAT, camera="highres_image", robot="Franka Panda", rate=10.0,
        motion="position",
    ),
    make(
        "ucsd_pick_and_place_dataset" + EXTERNAL, ("action[0:3]", "zeros(3)", "gripper(action[3])"), robot="xArm 7",
        rate=3.0, motion="velocity", state=_STATE, layout="pos_euler",
    ),
    make(
        "asu_table_top" + EXTERNAL, _FLAT, robot="UR5", rate=12.5, motion=None, layout="pos_euler",
        state=("ground_truth_states/EE", "zeros(1)", "observation/state[-1]"),
    ),
    make(
        "cmu_play_fusion", ("action[0:3]", "angles(action[3:7])", "gripper(action[7])"), robot="Franka Panda", rate=5.0,
        state="observation/state", layout="joint",
    ),
    make(
        "stanford_robocook" + EXTERNAL, _FLAT, camera="image_1", robot="Franka Panda", rate=5.0, motion="velocity",
        state=_STATE, layout="pos_euler",
    ),
    make(
        "kaist_nonprehensile" + EXTERNAL, ("action[0:6]", "zeros(1)"), robot="Franka Panda", rate=10.0, frame="base",
        state=("observation/state[-7:]", "zeros(1)"), layout="pos_quat",
    ),
    make(
        "tokyo_u_lsmo" + EXTERNAL, _FLAT, robot="Cobotta", rate=10.0, motion="position", state=_STATE,
        layout="pos_euler",
    ),
    make(
        "dlr_sara_pour" + EXTERNAL, _FLAT, robot="DLR SARA", rate=10.0, motion="position", layout="pos_euler",
        state=("observation/state", "zeros(2)"),
    ),
    make(
        "dlr_sara_grid_clamp" + EXTERNAL, _FLAT, robot="DLR SARA", rate=10.0, motion="position", layout="pos_euler",
        state=("observation/state[0:6]", "zeros(2)"),
    ),
    make(
        "imperialcollege_sawyer_wrist_cam", _FLAT, wrist="wrist_image", third_person=False, robot="Sawyer", rate=10.0,
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
        "utokyo_xarm_pick_and_place" + EXTERNAL, _FLAT, wrist="hand_image", robot="xArm 7", rate=10.0,
        motion="position", state=("observation/end_effector_pose", "zeros(2)"), layout="pos_euler",
    ),
    make(
        "utokyo_xarm_bimanual" + EXTERNAL, ("action[7:13]", "gripper(action[13])"), arms=2, robot="two xArm 7",
        rate=10.0, motion="position", state=("observation/pose_r", "zeros(2)"), layout="pos_euler",
    ),
    *(
        make(
            f"utokyo_pr2_{task}{EXTERNAL}", _FLAT, robot="PR2", rate=10.0, motion="position", state=_STATE,
            layout="pos_euler",
        )
        for task in ("opening_fridge", "tabletop_manipulation")
    ),
)  # fmt: skip
