"""Export for the loader of the reference OpenVLA code: config row, transform and mixture, written beside a dataset.

`reference_loader.py` registers all three when it is imported together with the reference (before its `finetune.py` or
`train.py` builds the dataset); `reference_loader.json` holds the same as data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from openvla_training.rlds.features import MAIN_CAMERA, STATE
from openvla_training.rlds.reader import camera_keys, find_dataset
from openvla_training.rlds.writer import write_atomically

PYTHON, JSON = "reference_loader.py", "reference_loader.json"
MODULE = '''"""Registers the dataset {name} with the reference OpenVLA code; written by openvla_training.

Import it once before the dataset is built, for example at the top of vla-scripts/finetune.py:

    import sys; sys.path.insert(0, "{folder}"); import reference_loader

then: --data_root_dir {root} --dataset_name {name}   (unnorm_key: {name})
"""

from prismatic.vla.datasets.rlds.oxe.configs import OXE_DATASET_CONFIGS, ActionEncoding, StateEncoding
from prismatic.vla.datasets.rlds.oxe.mixtures import OXE_NAMED_MIXTURES
from prismatic.vla.datasets.rlds.oxe.transforms import OXE_STANDARDIZATION_TRANSFORMS


def {name}_dataset_transform(trajectory):
    """Already as wanted: metres, radians about fixed axes, gripper absolute with 1 = open."""
    return trajectory


OXE_DATASET_CONFIGS["{name}"] = {{
    "image_obs_keys": {image_obs_keys!r},
    "depth_obs_keys": {depth_obs_keys!r},
    "state_obs_keys": {state_obs_keys!r},
    "state_encoding": StateEncoding.{state_encoding},
    "action_encoding": ActionEncoding.{action_encoding},
}}
OXE_STANDARDIZATION_TRANSFORMS["{name}"] = {name}_dataset_transform
OXE_NAMED_MIXTURES["{name}"] = [("{name}", 1.0)]
'''


def loader_config(folder: Path | str) -> dict[str, Any]:
    """Describe a dataset: config row, mixture row, name of the statistics (unnorm_key)."""
    folder = find_dataset(folder)
    name = folder.parent.name
    cameras = camera_keys(tfds.builder_from_directory(folder).info.features)
    further = [key for key in cameras if key != MAIN_CAMERA]
    wrist = next((key for key in further if "wrist" in key or "hand" in key), None)
    secondary = next((key for key in further if key != wrist), None)
    return {
        "name": name,
        "root": str(folder.parent.parent),
        "folder": str(folder),
        "config": {
            "image_obs_keys": {"primary": MAIN_CAMERA, "secondary": secondary, "wrist": wrist},
            "depth_obs_keys": {"primary": None, "secondary": None, "wrist": None},
            "state_obs_keys": [STATE],
            "state_encoding": "POS_QUAT",
            "action_encoding": "EEF_POS",
        },
        "mixture": [[name, 1.0]],
        "unnorm_key": name,
        "action_normalization_mask": [True] * 6 + [False],
    }


def write_loader_config(folder: Path | str) -> Path:
    """Write both files beside the shards; returns the path of the Python file."""
    facts = loader_config(folder)
    folder = Path(facts["folder"])
    write_atomically(folder / JSON, json.dumps(facts, indent=2) + "\n")
    write_atomically(
        folder / PYTHON, MODULE.format(**{k: facts[k] for k in ("name", "root", "folder")}, **facts["config"])
    )
    return folder / PYTHON
