"""Gripper conventions of the Open X-Embodiment datasets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Convention = Literal["opening", "closing", "signed_opening", "signed_closing", "relative_closing"]


@dataclass(frozen=True)
class DatasetGripper:
    """The recorded gripper numbers of one dataset.

    Attributes:
        convention: None where the action has no gripper (the reference fills in a constant), or where its meaning is
            not documented, so that the reference passes the numbers on unchanged.
        binarise: Values in transition count as what they become.
        constant: The seventh number of a trained policy where there is no gripper.
    """

    convention: Convention | None = "opening"
    binarise: bool = False
    constant: float | None = None


def _rows() -> dict[str, DatasetGripper]:
    opening, closing = DatasetGripper(), DatasetGripper("closing")
    positions, relative = DatasetGripper(binarise=True), DatasetGripper("relative_closing")
    undocumented = DatasetGripper(None)
    suffix = "_converted_externally_to_rlds"
    groups: list[tuple[DatasetGripper, list[str]]] = [
        (positions, ["bridge_orig", "bridge_dataset", "ppgm", "ppgm_static", "ppgm_wrist"]),
        (positions, [f"tdroid_{task}" for task in _TDROID]),
        (opening, ["bridge_oxe", "taco_play", "toto", "nyu_franka_play_dataset" + suffix]),
        (relative, ["fractal20220817_data", "kuka", "jaco_play", "berkeley_autolab_ur5"]),
        (relative, ["nyu_door_opening_surprising_effectiveness"]),
        (closing, ["roboturk", "viola", "bc_z", "utaustin_mutex", "berkeley_fanuc_manipulation", "roboset"]),
        (closing, [f"{name}{suffix}" for name in _CLOSING]),
        (closing, ["droid", "droid_wipe", "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90"]),
        (DatasetGripper(None, constant=1.0), ["language_table"]),
        (DatasetGripper(None, constant=0.0), ["berkeley_cable_routing", "uiuc_d3field", *_GNM]),
        (DatasetGripper(None, constant=0.0), ["kaist_nonprehensile" + suffix]),
        (undocumented, ["columbia_cairlab_pusht_real", "ucsd_pick_and_place_dataset" + suffix, "robo_net"]),
        (undocumented, ["imperialcollege_sawyer_wrist_cam", "cmu_playing_with_food", "cmu_play_fusion", "cmu_stretch"]),
        (undocumented, ["fmb_dataset", "dobbe", "rh20t", *(f"{name}{suffix}" for name in _UNDOCUMENTED)]),
    ]
    return {name: row for row, names in groups for name in names}


_TDROID = (
    "carrot_in_bowl",
    "pour_corn_in_pot",
    "flip_pot_upright",
    "move_object_onto_plate",
    "knock_object_over",
    "cover_object_with_towel",
)


_CLOSING = (
    "stanford_hydra_dataset",
    "austin_buds_dataset",
    "austin_sailor_dataset",
    "austin_sirius_dataset",
    "furniture_bench_dataset",
    "dlr_edan_shared_control",
)


_GNM = ("berkeley_gnm_recon", "berkeley_gnm_cory_hall", "berkeley_gnm_sac_son")


_UNDOCUMENTED = (
    "stanford_kuka_multimodal_dataset",
    "nyu_rot_dataset",
    "maniskill_dataset",
    "cmu_franka_exploration_dataset",
    "ucsd_kitchen_dataset",
    "utokyo_pr2_opening_fridge",
    "utokyo_pr2_tabletop_manipulation",
    "utokyo_xarm_pick_and_place",
    "utokyo_xarm_bimanual",
    "berkeley_mvp",
    "berkeley_rpt",
    "stanford_mask_vit",
    "tokyo_u_lsmo",
    "dlr_sara_pour",
    "dlr_sara_grid_clamp",
    "asu_table_top",
    "stanford_robocook",
    "iamlab_cmu_pickup_insert",
)


DATASETS: dict[str, DatasetGripper] = _rows()
