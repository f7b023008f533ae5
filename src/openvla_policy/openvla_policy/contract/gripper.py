"""What a gripper number means, by dataset: the one place where a gripper's sign is turned.

The contract is `opening`: 0 closed .. 1 open. The reference's training code brings the datasets it reads to that
(prismatic/vla/datasets/rlds/oxe/transforms.py), so that policies trained with it, the published ones among them,
speak it whatever robot the data came from; `DATASETS` says what the *recorded* numbers mean, and for which datasets
the reference passes them on as they are. Environments that want another convention get it from `from_opening`.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import Literal, get_args

import numpy as np

from openvla_policy.contract.gripper_datasets import DATASETS, Convention

CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
STATELESS = tuple(name for name in CONVENTIONS if name != "relative_closing")
Option = Convention | Literal["auto"]
OPTIONS = ("auto", *STATELESS)
_OPEN, _CLOSED = 0.95, 0.05  # beyond these a value is not on its way (reference: binarize_gripper_actions)
_STILL = 0.1  # smaller relative commands mean "as before" (reference: rel2abs_gripper_actions)

log = logging.getLogger("openvla.gripper")


def to_opening(values: np.ndarray, convention: Convention, binarise: bool = False) -> np.ndarray:
    """Gripper numbers (T,) of one trajectory in `convention` -> [0 closed .. 1 open], in their dtype.

    Out-of-range values are clipped. `closing`, as recorded, often runs from -1 (open) to 1: what is below 0 is open.
    `relative_closing`: +1 closes, -1 opens, around 0 goes on as before; the only convention whose value depends on
    the ones before. `binarise` makes 0 and 1 of everything, as the reference does where robots record positions.
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
    """[0 closed .. 1 open] -> what an environment or driver in `convention` wants; nothing is clipped.

    `from_opening(g, "signed_closing", binarise=True)` is what the reference does before LIBERO and robosuite
    (experiments/robot/robot_utils.py: 2g - 1, its sign, turned round), where a half-open 0.5 becomes 0, "stay".
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
    raise ValueError(f"gripper: {convention!r} is not something to command; choose one of {', '.join(STATELESS)}")


@cache
def policy_convention(dataset: str) -> Convention:
    """What a policy trained by the reference on `dataset` (the `unnorm_key`) means by its seventh number.

    `opening` for all: for the datasets the reference standardises because it does, for unknown names because it is
    the contract. For the few it passes on unchecked, and for those without a gripper, a warning says so once.
    """
    entry = DATASETS.get(dataset.removesuffix("_no_noops"), DATASETS.get(dataset))
    if entry is not None and entry.constant is not None:
        log.warning("%s: its actions have no gripper; the policy's is always about %g", dataset, entry.constant)
    elif entry is not None and entry.convention is None:
        log.warning("%s: what its gripper numbers mean is not documented; they are taken as 1 = open", dataset)
    return "opening"


def check_option(option: Option) -> Option:
    """The `gripper` option of a policy: `auto` (by the name of the statistics) or what its numbers mean.

    Raises:
        ValueError: it is neither, or `relative_closing`, which cannot be read off one action.
    """
    if option not in OPTIONS:
        raise ValueError(f"gripper: {option!r} is not to be read off an action; choose one of {', '.join(OPTIONS)}")
    return option


def convert_actions(actions: np.ndarray, option: Option, dataset: str) -> np.ndarray:
    """Actions (..., 7) of a policy -> the contract's gripper; those that are `opening` already stay bit for bit."""
    convention = policy_convention(dataset) if option == "auto" else option
    if convention == "opening":
        return actions
    return np.concatenate([actions[..., :6], to_opening(actions[..., 6:], convention)], axis=-1)


def _binarised(opening: np.ndarray) -> np.ndarray:
    """Values in between become what the next clear value is; at the end, what the last value is."""
    result = np.empty_like(opening)
    carried = opening[-1] if len(opening) else 0.0
    for index in range(len(opening) - 1, -1, -1):
        value = opening[index]
        carried = 1.0 if value > _OPEN else 0.0 if value < _CLOSED else carried
        result[index] = carried
    return result


def _accumulated(commands: np.ndarray) -> np.ndarray:
    """State after each relative command; before the first, the opposite of what it asks for; open if none ever does."""
    step = np.where(commands < -_STILL, 1, np.where(commands > _STILL, -1, 0))
    moved = np.flatnonzero(step)
    state = -step[moved[0]] if len(moved) else 1
    result = np.empty_like(commands)
    for index, change in enumerate(step):
        state = change or state
        result[index] = state / 2 + 0.5
    return result
