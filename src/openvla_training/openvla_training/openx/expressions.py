"""Expressions of a registry row: where its action and state stand in a dataset's steps.

    action/world_vector               a key below a step; it may contain slashes
    action[3:7]   action[-1]          columns of it
    gripper(action[6])                a recorded gripper number as an opening [0 closed .. 1 open], by the
                                      row's `gripper` convention
    invert(e)   clip(e)               1 - e; e limited to [0, 1]
    angles(e)                         quaternion x y z w -> roll, pitch, yaw (fixed axes)
    axis_angle(e)                     rotation vector -> roll, pitch, yaw
    wrist_motion(motion, pose)        a motion (6) in the base's axes -> in those of the end effector at a pose (6)
    zeros(n)   ones(n)                n constant columns

An expression yields one or more columns over the steps of a trajectory; a row lists the expressions whose columns, side
by side, are the vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from openvla_policy.contract.gripper import to_opening
from openvla_policy.contract.gripper_datasets import DatasetGripper

_PATH = re.compile(r"(?P<key>[A-Za-z_][\w/.-]*)(?:\[(?P<start>-?\d+)?(?P<colon>:)?(?P<stop>-?\d+)?\])?$")
_CALL = re.compile(r"(?P<name>[a-z_]+)\((?P<arguments>.*)\)$")


@cache
def _functions() -> dict[str, Callable[..., np.ndarray]]:
    # Rows are parsed where SciPy is not installed; only their evaluation needs it.
    from scipy.spatial.transform import Rotation

    from openvla_training.rotations import (
        angles_to_matrices,
        matrices_to_angles,
        quaternions_to_matrices,
        to_end_effector,
    )

    return {
        "invert": lambda e: 1 - e,
        "clip": lambda e: np.clip(e, 0, 1),
        "angles": lambda e: matrices_to_angles(quaternions_to_matrices(e)),
        "axis_angle": lambda e: matrices_to_angles(Rotation.from_rotvec(e).as_matrix()),
        "wrist_motion": lambda motion, pose: to_end_effector(motion, angles_to_matrices(pose[:, 3:6])),
    }


_WIDTHS = {"zeros": 0.0, "ones": 1.0}
FUNCTIONS = ("gripper", "invert", "clip", "angles", "axis_angle", "wrist_motion", *_WIDTHS)


@dataclass(frozen=True)
class Columns:
    """Columns `start` up to before `stop` of a key; all of them where both are None."""

    key: str
    start: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Constant:
    """`count` columns of one value."""

    value: float
    count: int


@dataclass(frozen=True)
class Call:
    """A function of other expressions."""

    name: str
    arguments: tuple[Expression, ...]


Expression = Columns | Constant | Call


def parse(text: str) -> Expression:
    """Parse one expression.

    Args:
        text: The expression.

    Returns:
        Its tree.

    Raises:
        ValueError: It cannot be parsed; the message lists the forms.
    """
    text = text.strip()
    if call := _CALL.match(text):
        name, inside = call["name"], call["arguments"]
        if name in _WIDTHS:
            if not inside.strip().isdigit():
                raise ValueError(f"expression {text!r}: {name} takes a number of columns, as in {name}(3)")
            return Constant(_WIDTHS[name], int(inside))
        if name not in FUNCTIONS:
            raise ValueError(f"expression {text!r}: {name!r} is unknown; choose from {', '.join(FUNCTIONS)}")
        wanted = 2 if name == "wrist_motion" else 1
        parts = list(_split(inside))
        if len(parts) != wanted:
            raise ValueError(f"expression {text!r}: {name} takes {wanted} argument(s), found {len(parts)}")
        return Call(name, tuple(parse(part) for part in parts))
    path = _PATH.match(text)
    if path is None:
        raise ValueError(
            f"expression {text!r} cannot be read; write a key as action, columns of it as action[0:6] or action[-1], "
            f"or a function of these: {', '.join(FUNCTIONS)}"
        )
    if path["colon"]:
        return Columns(path["key"], *(int(path[k]) if path[k] else None for k in ("start", "stop")))
    if path["start"] is None:
        return Columns(path["key"])
    column = int(path["start"])
    return Columns(path["key"], column, None if column == -1 else column + 1)


def _split(text: str) -> Iterator[str]:
    depth, begin = 0, 0
    for index, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield text[begin:index]
            begin = index + 1
    yield text[begin:]


def keys_of(expression: Expression) -> set[str]:
    """Collect the keys that an expression reads."""
    if isinstance(expression, Columns):
        return {expression.key}
    if isinstance(expression, Call):
        return set().union(*(keys_of(argument) for argument in expression.arguments))
    return set()


def evaluate(
    expression: Expression, steps: Mapping[str, np.ndarray], count: int, gripper: DatasetGripper
) -> np.ndarray:
    """Evaluate an expression over a trajectory.

    Args:
        expression: The expression.
        steps: Arrays (count, …) by key.
        count: Number of steps.
        gripper: What recorded gripper numbers mean.

    Returns:
        The columns (count, n), float32 or float64.

    Raises:
        ValueError: A key or a column does not exist.
    """
    if isinstance(expression, Constant):
        return np.full((count, expression.count), expression.value, np.float32)
    if isinstance(expression, Columns):
        return _columns(expression, steps, count)
    arguments = [evaluate(argument, steps, count, gripper) for argument in expression.arguments]
    if expression.name == "gripper":
        if gripper.convention is None:
            return arguments[0]
        return to_opening(arguments[0][:, 0], gripper.convention, gripper.binarise)[:, None]
    return _functions()[expression.name](*arguments)


def _columns(columns: Columns, steps: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    if columns.key not in steps:
        raise ValueError(f"key {columns.key!r} is not in the steps; there are {', '.join(sorted(steps))}")
    values = np.asarray(steps[columns.key])
    if values.dtype not in (np.float32, np.float64):
        values = values.astype(np.float32)
    values = values.reshape(count, int(np.prod(values.shape[1:])))  # not -1: there may be no step left
    part = values[:, columns.start : columns.stop]
    width = values.shape[1]
    edges = [edge for edge in (columns.start, columns.stop) if edge is not None]
    if not part.shape[1] or any(abs(edge) > width for edge in edges):
        raise ValueError(f"key {columns.key!r} has {width} columns; [{columns.start}:{columns.stop}] is not among them")
    return part
