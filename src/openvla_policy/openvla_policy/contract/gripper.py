"""What a gripper number means, by dataset: the only place where a gripper's sign changes.

The contract is `opening`: 0 closed .. 1 open. The reference's training code converts the datasets it reads to it
(prismatic/vla/datasets/rlds/oxe/transforms.py). Policies trained with that code, among them the published ones,
therefore use it whatever robot the data came from. `DATASETS` says what the *recorded* numbers mean, and which
datasets the reference passes on unchanged. `from_opening` converts to what an environment expects.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, get_args

import numpy as np

from openvla_policy.contract.gripper_datasets import DATASETS, Convention

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
Option = Literal["auto", "opening", "closing", "signed_opening", "signed_closing"]  # of a policy
OPTIONS: tuple[Option, ...] = get_args(Option)
STATELESS = tuple(name for name in CONVENTIONS if name != "relative_closing")
_OPEN, _CLOSED = 0.95, 0.05  # values between these are in transition (reference: binarize_gripper_actions)
_STILL = 0.1  # smaller relative commands change nothing (reference: rel2abs_gripper_actions)

log = logging.getLogger("openvla.gripper")


def to_opening(values: np.ndarray, convention: Convention, binarise: bool = False) -> np.ndarray:
    """Convert the gripper numbers of one trajectory to the contract.

    Args:
        values: (T,) numbers in `convention`; those out of range are clipped.
        convention: What they mean. `closing` as recorded often runs from -1 (open) to 1: below 0 is open.
            `relative_closing`: +1 closes, -1 opens, about 0 changes nothing; the only convention in which a value
            depends on those before it.
        binarise: Make every value 0 or 1, as the reference does where robots record positions.

    Returns:
        (T,) 0 closed .. 1 open, in the dtype of `values` (float64 for integers).

    Raises:
        ValueError: The convention is unknown.
    """
    values = np.asarray(values)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    if convention == "opening":
        opening = np.clip(values, 0, 1)
    elif convention == "closing":
        opening = 1 - np.clip(values, 0, 1)
    elif convention == "signed_opening":
        opening = (np.clip(values, -1, 1) + 1) / 2
    elif convention == "signed_closing":
        opening = (1 - np.clip(values, -1, 1)) / 2
    elif convention == "relative_closing":
        opening = _accumulated(values)
    else:
        raise ValueError(f"gripper: {convention!r} is unknown; choose one of {', '.join(CONVENTIONS)}")
    return _binarised(opening) if binarise else opening


def from_opening(opening: np.ndarray, convention: Convention, binarise: bool = False) -> np.ndarray:
    """Convert the contract's gripper numbers to those of an environment or driver. Nothing is clipped.

    `from_opening(g, "signed_closing", binarise=True)` is what the reference computes for LIBERO and robosuite
    (experiments/robot/robot_utils.py: sign of 2g - 1, inverted), where a half-open 0.5 becomes 0, "stay".

    Args:
        opening: Numbers 0 closed .. 1 open, of any shape.
        convention: The convention to convert to; not `relative_closing`.
        binarise: Use only the sign: each number becomes fully open, fully closed or exactly half.

    Returns:
        float64 numbers of the same shape.

    Raises:
        ValueError: The convention is unknown or relative.
    """
    signed = 2 * np.asarray(opening, dtype=np.float64) - 1
    signed = np.sign(signed) if binarise else signed
    if convention == "signed_opening":
        return signed
    if convention == "signed_closing":
        return -signed
    if convention == "opening":
        return (signed + 1) / 2
    if convention == "closing":
        return (1 - signed) / 2
    raise ValueError(f"gripper: {convention!r} cannot be commanded; choose one of {', '.join(STATELESS)}")


@cache
def policy_convention(dataset: str) -> Convention:
    """The convention of a policy that the reference trained on a dataset.

    Warns, once a dataset, of those that the reference passes on unchecked and of those without a gripper.

    Args:
        dataset: Name of the dataset (`unnorm_key`).

    Returns:
        Always `opening`: the reference converts the datasets it knows, and unknown ones must keep to the contract.
    """
    entry = DATASETS.get(dataset.removesuffix("_no_noops"), DATASETS.get(dataset))
    if entry is not None and entry.constant is not None:
        log.warning("%s: its actions have no gripper; the policy always answers about %g", dataset, entry.constant)
    elif entry is not None and entry.convention is None:
        log.warning("%s: the meaning of its gripper numbers is not documented; assuming 1 = open", dataset)
    return "opening"


def check_option(option: Option) -> Option:
    """Return a policy's `gripper` option: `auto` (by the name of the statistics) or a convention.

    Args:
        option: The option.

    Returns:
        The same option.

    Raises:
        ValueError: It is unknown, or `relative_closing`, which one action does not determine.
    """
    if option not in OPTIONS:
        raise ValueError(f"gripper: {option!r} is not determined by one action; choose one of {', '.join(OPTIONS)}")
    return option


def convert_actions(actions: np.ndarray, option: Option, dataset: str) -> np.ndarray:
    """Convert the gripper number of a policy's actions to the contract.

    Args:
        actions: (..., 7).
        option: The convention of the seventh number; `auto`: that of `dataset`.
        dataset: Name of the policy's statistics.

    Returns:
        (..., 7); `actions` itself where its convention is `opening` already.
    """
    convention = policy_convention(dataset) if option == "auto" else option
    if convention == "opening":
        return actions
    return np.concatenate([actions[..., :6], to_opening(actions[..., 6:], convention)], axis=-1)


def _binarised(opening: np.ndarray) -> np.ndarray:
    """Replace each value in transition by the next open or closed one, after the last of those by the last value."""
    result = np.empty_like(opening)
    carried = opening[-1] if len(opening) else 0.0
    for index in range(len(opening) - 1, -1, -1):
        value = opening[index]
        carried = 1.0 if value > _OPEN else 0.0 if value < _CLOSED else carried
        result[index] = carried
    return result


def _accumulated(commands: np.ndarray) -> np.ndarray:
    """Gripper state after each relative command. Before the first one: the opposite of it; open if there is none."""
    step = np.where(commands < -_STILL, 1, np.where(commands > _STILL, -1, 0))
    moved = np.flatnonzero(step)
    state = -step[moved[0]] if len(moved) else 1
    result = np.empty_like(commands)
    for index, change in enumerate(step):
        state = change or state
        result[index] = state / 2 + 0.5
    return result
