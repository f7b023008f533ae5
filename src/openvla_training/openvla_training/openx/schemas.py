"""The TFDS features of the registry's datasets, as published: which keys there are, their shapes and types.

Written as `key:type`, one word each, groups in braces. Types: `480x640` an image (`480x640x1` of depth); `7` seven
float32; `3*3` a matrix; nothing, one number; a letter behind them another type: b bool, i int32, l int64, u uint8,
h uint16, d float64, z float32 packed by zlib; `t` a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

_TYPES = {
    "b": np.bool_,
    "i": np.int32,
    "l": np.int64,
    "u": np.uint8,
    "h": np.uint16,
    "d": np.float64,
    "": np.float32,
}
_WORD = re.compile(r"(?P<key>[\w/]+)(?::(?P<shape>[\dx*]*)(?P<type>[bliuhdzt]?))?$")

_RT1 = "is_first:b is_last:b is_terminal:b reward"
_SEEN = "natural_language_embedding:512 natural_language_instruction:t"
_KONA = "is_first:b is_last:b is_terminal:b reward discount language_embedding:512 language_instruction:t"
_PLAIN = "is_first:b is_last:b is_terminal:b reward discount language_instruction:t"
_PATH = "episode_metadata{ file_path:t }"
_TERMINATED = "world_vector:3 rotation_delta:3 terminate_episode"
_ARM = (
    "base_displacement_vector:2 base_displacement_vertical_rotation:1 gripper_closedness_action:1 rotation_delta:3 "
    "terminate_episode:3i world_vector:3"
)
_ROBOT = "cartesian_position:6d gripper_position:1d joint_position:7d"
_DROID = (
    f"steps{{ {_PLAIN} language_instruction_2:t language_instruction_3:t action:7d "
    f"action_dict{{ {_ROBOT} cartesian_velocity:6d gripper_velocity:1d joint_velocity:7d }} "
    f"observation{{ {_ROBOT} exterior_image_1_left:180x320 exterior_image_2_left:180x320 "
    "wrist_image_left:180x320 } } episode_metadata{ file_path:t recording_folderpath:t }"
)
_BRIDGE = (
    f"steps{{ {_KONA} action:7 observation{{ image_0:256x256 image_1:256x256 image_2:256x256 image_3:256x256 state:7 "
    "} } episode_metadata{ episode_id:i file_path:t has_image_0:b has_image_1:b has_image_2:b has_image_3:b "
    "has_language:b }"
)
_LIBERO = (
    f"steps{{ {_PLAIN} action:7 observation{{ image:256x256 wrist_image:256x256 state:8 joint_state:7 }} }} {_PATH}"
)
_AUSTIN = (
    f"steps{{ {_KONA} %s action:7 observation{{ image:%s wrist_image:%s state:8 state_ee:16 state_gripper:1 "
    f"state_joint:7 }} }} {_PATH}"
)
_EXTERNAL = "_converted_externally_to_rlds"


def _kona(observation: str, action: str = "7", more: str = "", metadata: str = _PATH) -> str:
    return f"steps{{ {_KONA} action:{action} {more} observation{{ {observation} }} }} {metadata}"


def _rt1(action: str, observation: str, more: str = "") -> str:
    return f"steps{{ {_RT1} action{{ {action} }} observation{{ {_SEEN} {observation} }} }} {more}"


SCHEMAS: dict[str, str] = {
    "fractal20220817_data": _rt1(
        _ARM,
        "base_pose_tool_reached:7 gripper_closed:1 gripper_closedness_commanded:1 height_to_bottom:1 image:256x320 "
        "orientation_box:2*3 orientation_start:4 robot_orientation_positions_box:3*3 rotation_delta_to_go:3 "
        "src_rotation:4 vector_to_go:3 workspace_bounds:3*3",
        "aspects{ already_success:b feasible:b has_aspects:b success:b undesirable:b } attributes{ collection_mode:l "
        "collection_mode_name:t data_type:l data_type_name:t env:l env_name:t location:l location_name:t "
        "objects_family:l objects_family_name:t task_family:l task_family_name:t }",
    ),
    "kuka": _rt1(
        _ARM,
        "clip_function_input/base_pose_tool_reached:7z clip_function_input/workspace_bounds:3*3z gripper_closed:1z "
        "height_to_bottom:1z image:512x640 task_id:1z",
        "success:b",
    ),
    "bridge_orig": _BRIDGE,
    "bridge_dataset": _BRIDGE,
    "bridge_oxe": _rt1(f"open_gripper:b {_TERMINATED}", "image:480x640 state:7"),
    "taco_play": _rt1(
        "actions:7 rel_actions_gripper:7 rel_actions_world:7 terminate_episode",
        "depth_gripper:84*84 depth_static:150*200 rgb_gripper:84x84 rgb_static:150x200 robot_obs:15 "
        "structured_language_instruction:t",
    ),
    "jaco_play": _rt1(
        "gripper_closedness_action:1 terminate_episode:3i world_vector:3",
        "end_effector_cartesian_pos:7 end_effector_cartesian_velocity:6 image:224x224 image_wrist:224x224 joint_pos:8",
    ),
    "berkeley_cable_routing": _rt1(
        _TERMINATED, "image:128x128 robot_state:7 top_image:128x128 wrist225_image:128x128 wrist45_image:128x128"
    ),
    "roboturk": _rt1(f"gripper_closedness_action:1 {_TERMINATED}", "front_rgb:480x640"),
    "viola": _rt1(
        f"gripper_closedness_action {_TERMINATED}",
        "agentview_rgb:224x224 ee_states:16 eye_in_hand_rgb:224x224 gripper_states:1 joint_states:7",
    ),
    "berkeley_autolab_ur5": _rt1(
        f"gripper_closedness_action {_TERMINATED}",
        "hand_image:480x640 image:480x640 image_with_depth:480x640x1 robot_state:15",
    ),
    "toto": _rt1(f"open_gripper:b {_TERMINATED}", "image:480x640 state:7"),
    "nyu_door_opening_surprising_effectiveness": _rt1(f"gripper_closedness_action:1 {_TERMINATED}", "image:720x960"),
    "language_table": f"steps{{ {_RT1} action:2 observation{{ effector_target_translation:2 effector_translation:2 "
    "instruction:512i rgb:360x640 } } episode_id:t",
    "stanford_hydra_dataset" + _EXTERNAL: _kona("image:240x320 state:27 wrist_image:240x320", more="is_dense:b"),
    "austin_buds_dataset" + _EXTERNAL: _kona("image:128x128 state:24 wrist_image:128x128"),
    "nyu_franka_play_dataset" + _EXTERNAL: _kona(
        "depth:128*128*1i depth_additional_view:128*128*1i image:128x128 image_additional_view:128x128 state:13", "15"
    ),
    "furniture_bench_dataset" + _EXTERNAL: _kona(
        "image:224x224 wrist_image:224x224 state:35", "8", "skill_completion",
        "episode_metadata{ file_path:t furniture:t initial_randomness:t }",
    ),
    "ucsd_kitchen_dataset" + _EXTERNAL: _kona("image:480x640 state:21", "8"),
    "austin_sailor_dataset" + _EXTERNAL: _AUSTIN % ("", "128x128", "128x128"),
    "austin_sirius_dataset" + _EXTERNAL: _AUSTIN % ("action_mode:1 intv_label:1", "84x84", "84x84"),
    "dlr_edan_shared_control" + _EXTERNAL: _kona("image:360x640 state:7"),
    "iamlab_cmu_pickup_insert" + _EXTERNAL: _kona("image:360x640 state:20 wrist_image:240x320", "8"),
    "utaustin_mutex": _kona("image:128x128 state:24 wrist_image:128x128"),
    "berkeley_fanuc_manipulation": _kona(
        "end_effector_state:7 image:224x224 state:13 wrist_image:224x224", "6"
    ),
    "cmu_stretch": _kona("image:128x128 state:4", "8"),
    "bc_z": _rt1(
        "future/axis_angle_residual:30 future/target_close:10l future/xyz_residual:30",
        "episode_success image:171x213 present/autonomous:l present/axis_angle:3 present/intervention:l "
        "present/sensed_close:1 present/xyz:3 sequence_length:l",
    ),
    "fmb_dataset": _kona(
        "color_id:u eef_force:3 eef_pose:7 eef_torque:3 eef_vel:6 image_side_1:256x256 image_side_1_depth:256*256 "
        "image_side_2:256x256 image_side_2_depth:256*256 image_wrist_1:256x256 image_wrist_1_depth:256*256 "
        "image_wrist_2:256x256 image_wrist_2_depth:256*256 joint_pos:7 joint_vel:7 length:t object_id:u primitive:t "
        "shape_id:u size:t state_gripper_pose",
        metadata="episode_metadata{ episode_language_embedding:512 episode_language_instruction:t episode_task:t "
        "file_path:t }",
    ),
    "dobbe": _kona("gripper:1 quat:4 rot:3 state:7 wrist_image:256x256 xyz:3"),
    "droid": _DROID,
    "droid_wipe": _DROID,
    "columbia_cairlab_pusht_real": _rt1(
        f"gripper_closedness_action {_TERMINATED}", "image:240x320 robot_state:2 wrist_image:240x320"
    ),
    "stanford_kuka_multimodal_dataset" + _EXTERNAL: _kona(
        "contact:50 depth_image:128*128*1 ee_forces_continuous:50*6 ee_orientation:4 ee_orientation_vel:3 "
        "ee_position:3 ee_vel:3 ee_yaw:4 ee_yaw_delta:4 image:128x128 joint_pos:7 joint_vel:7 optical_flow:128*128*2 "
        "state:8", "4", metadata="",
    ),
    "nyu_rot_dataset" + _EXTERNAL: _kona("image:84x84 state:7"),
    "maniskill_dataset" + _EXTERNAL: _kona(
        "base_pose:7 depth:256x256x1h image:256x256 main_camera_cam2world_gl:4*4 main_camera_extrinsic_cv:4*4 "
        "main_camera_intrinsic_cv:3*3 state:18 target_object_or_part_final_pose:7 "
        "target_object_or_part_final_pose_valid:7u target_object_or_part_initial_pose:7 "
        "target_object_or_part_initial_pose_valid:7u tcp_pose:7 wrist_camera_cam2world_gl:4*4 "
        "wrist_camera_extrinsic_cv:4*4 wrist_camera_intrinsic_cv:3*3 wrist_depth:256x256x1h wrist_image:256x256",
        metadata="episode_metadata{ episode_id:t file_path:t }",
    ),
    "cmu_franka_exploration_dataset" + _EXTERNAL: _kona(
        "highres_image:480x640 image:64x64", "8", "structured_action:8"
    ),
    "ucsd_pick_and_place_dataset" + _EXTERNAL: _kona(
        "image:224x224 state:7", "4",
        metadata="episode_metadata{ disclaimer:t file_path:t n_transitions:i success:b success_labeled_by:t }",
    ),
    "asu_table_top" + _EXTERNAL: _kona(
        "image:224x224 state:7 state_vel:7",
        more="action_delta:7 action_inst:t goal_object:t "
        "ground_truth_states{ EE:6 bottle:6 bread:6 coke:6 cube:6 milk:6 pepsi:6 }",
    ),
    "cmu_play_fusion": _kona("image:128x128 state:8", "9"),
    "stanford_robocook" + _EXTERNAL: _kona(
        "depth_1:256*256 depth_2:256*256 depth_3:256*256 depth_4:256*256 image_1:256x256 image_2:256x256 "
        "image_3:256x256 image_4:256x256 state:7",
        metadata="episode_metadata{ extrinsics_1:4*4 extrinsics_2:4*4 extrinsics_3:4*4 extrinsics_4:4*4 file_path:t }",
    ),
    "kaist_nonprehensile" + _EXTERNAL: _kona("image:480x640 partial_pointcloud:512*3 state:21", "20"),
    "tokyo_u_lsmo" + _EXTERNAL: _kona("image:120x120 state:13"),
    "dlr_sara_pour" + _EXTERNAL: _kona("image:480x640 state:6"),
    "dlr_sara_grid_clamp" + _EXTERNAL: _kona("image:480x640 state:12"),
    "imperialcollege_sawyer_wrist_cam": _kona("image:64x64 state:1 wrist_image:64x64", "8"),
    "stanford_mask_vit" + _EXTERNAL: _kona(
        "end_effector_pose:5 finger_sensors:1 high_bound:5 image:480x480 low_bound:5 state:15", "5"
    ),
    "uiuc_d3field": _kona(
        "depth_1:360x640x1h depth_2:360x640x1h depth_3:360x640x1h depth_4:360x640x1h image_1:360x640 image_2:360x640 "
        "image_3:360x640 image_4:360x640 state:4*4",
        "3",
    ),
    "utokyo_xarm_pick_and_place" + _EXTERNAL: _kona(
        "end_effector_pose:6 hand_image:224x224 image:224x224 image2:224x224 joint_state:14 joint_trajectory:21"
    ),
    "utokyo_xarm_bimanual" + _EXTERNAL: _kona("action_l:7 action_r:7 image:256x256 pose_l:6 pose_r:6", "14"),
    "utokyo_pr2_opening_fridge" + _EXTERNAL: _kona("image:128x128 state:7", "8"),
    "utokyo_pr2_tabletop_manipulation" + _EXTERNAL: _kona("image:128x128 state:7", "8"),
    **{f"libero_{suite}_no_noops": _LIBERO for suite in ("spatial", "object", "goal", "10", "90")},
}  # fmt: skip


def features_of(name: str, scale: float = 1.0, encoded: bool = False) -> tfds.features.FeaturesDict:
    """Build the published features of a dataset.

    Args:
        name: The registered dataset.
        scale: Factor on the size of the images, for quick tests.
        encoded: Whether images are given as the bytes of files; the written data are the same.

    Returns:
        The features.
    """
    return _group(iter(SCHEMAS[name].split()), scale, encoded)


def _group(words: Iterator[str], scale: float, encoded: bool) -> tfds.features.FeaturesDict:
    found: dict[str, Any] = {}
    for word in words:
        if word == "}":
            break
        if word.endswith("{"):
            inner = _group(words, scale, encoded)
            found[word[:-1]] = tfds.features.Dataset(inner) if word == "steps{" else inner
        else:
            match = _WORD.match(word)
            if match is None:
                raise ValueError(f"schema word {word!r} cannot be read")
            found[match["key"]] = _leaf(match["shape"] or "", match["type"] or "", scale, encoded)
    return tfds.features.FeaturesDict(found)


def _leaf(shape: str, kind: str, scale: float, encoded: bool) -> Any:
    if kind == "t" or (encoded and "x" in shape):
        return tfds.features.Text()
    if "x" in shape:
        height, width, *channels = (int(n) for n in shape.split("x"))
        size = (max(8, round(height * scale)), max(8, round(width * scale)), *(channels or (3,)))
        dtype = (np.uint16 if kind == "h" else np.float32) if channels else np.uint8
        return tfds.features.Image(shape=size, dtype=dtype, encoding_format="png" if channels else None)
    sizes = tuple(int(n) for n in shape.split("*")) if shape else ()
    if kind != "z":
        return tfds.features.Tensor(shape=sizes, dtype=_TYPES[kind])
    return tfds.features.Tensor(shape=sizes, dtype=np.float32, encoding=tfds.features.Encoding.ZLIB)
