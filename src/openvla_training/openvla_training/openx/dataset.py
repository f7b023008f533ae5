"""One row of the registry: how a published dataset is laid out, and what its columns mean."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from openvla_policy.contract.action import ACTION_DIM
from openvla_policy.contract.gripper_datasets import DATASETS, DatasetGripper
from openvla_training.openx.expressions import Expression, keys_of, parse

Layout = Literal["pos_euler", "pos_quat", "joint", "none"]
Frame = Literal["base", "wrist"]
Motion = Literal["delta", "velocity", "position"]
Filter = Literal["first_step", "reached_state", "zero_actions", "no_ops", "success"]

FILTERS: dict[str, str] = {
    "first_step": "drop each trajectory's first step, whose action is all zero",
    "reached_state": "replace the six motions by the difference to the next state; the last step goes",
    "zero_actions": "drop steps whose motion is zero, which slow learning where the robot waits",
    "no_ops": "drop steps without motion whose gripper is as in the last step kept",
    "success": "keep only episodes whose top-level flag `success` is set",
}


@dataclass(frozen=True)
class Dataset:
    """One row. Keys are relative to a step; `action` and `state` are expressions (see `expressions`)."""

    name: str  # as in mixtures, and the policy's unnorm_key
    action: tuple[str, ...]  # seven columns: translation, rotation, gripper
    camera: tuple[str, ...] = ("image",)  # of the observation; of several, one is drawn for each trajectory
    wrist: str | None = None  # of the observation
    state: tuple[str, ...] = ()
    language: tuple[str, ...] = ("language_instruction",)  # one key for each wording of the same task
    tfds: str = ""  # name in TFDS, where it differs
    version: str | None = None  # newest published one; None: unknown
    gripper: DatasetGripper = field(default_factory=DatasetGripper)  # what the recorded gripper numbers mean
    layout: Layout = "none"  # of the state
    frame: Frame | None = None  # along whose axes actions are; None: not documented
    motion: Motion | None = "delta"  # meaning of the six motion numbers; None: not documented
    rate: float | None = None  # [Hz]
    filters: tuple[Filter, ...] = ()
    robot: str = ""
    arms: int = 1
    task: Literal["manipulation", "navigation"] = "manipulation"
    control: Literal["end_effector", "joint"] = "end_effector"
    third_person: bool = True  # the camera looks at the robot from outside
    bgr: bool = False  # the published pictures have red and blue swapped
    characters: bool = False  # the instruction is stored as one number a character
    transitions: int | None = None  # as in the statistics released with openvla-7b

    def __post_init__(self) -> None:
        where = f"dataset {self.name!r}"
        for name in ("action", "camera", "language"):
            if not getattr(self, name):
                raise ValueError(f"{where}: {name} is empty; name at least one key")
        if self.rate is not None and not self.rate > 0:
            raise ValueError(f"{where}: rate is {self.rate} Hz; it must be greater than 0")
        for which in ("action_expressions", "state_expressions"):
            try:
                getattr(self, which)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None

    @property
    def folder(self) -> str:
        """The dataset's name in TFDS."""
        return self.tfds or self.name

    @cached_property
    def action_expressions(self) -> tuple[Expression, ...]:
        """The expressions of `action`."""
        return tuple(parse(text) for text in self.action)

    @cached_property
    def state_expressions(self) -> tuple[Expression, ...]:
        """The expressions of `state`."""
        return tuple(parse(text) for text in self.state)

    @property
    def keys(self) -> set[str]:
        """All numeric keys of a step that action and state read."""
        return set().union(*(keys_of(e) for e in (*self.action_expressions, *self.state_expressions)))

    def objections(self) -> list[str]:
        """List the rules of the paper's curation (section 3.3) that the dataset breaks."""
        found = []
        if self.task != "manipulation":
            found.append(f"it is {self.task}, not manipulation")
        if self.arms != 1:
            found.append(f"it has {self.arms} arms, not one")
        if self.control != "end_effector":
            found.append(f"it is controlled by {self.control}, not by end effector")
        if not self.third_person:
            found.append("it has no third-person camera")
        return found


def gripper_of(name: str) -> DatasetGripper:
    """Look up what a dataset's recorded gripper numbers mean, in the policy's contract."""
    return DATASETS.get(name.removesuffix("_no_noops"), DATASETS.get(name, DatasetGripper()))


def check_width(row: Dataset, width: int) -> None:
    """Raise ValueError unless the row's action has seven columns."""
    if width != ACTION_DIM:
        raise ValueError(
            f"dataset {row.name!r}: its `action` gives {width} columns, a policy's has {ACTION_DIM}; "
            f"correct the list {list(row.action)}"
        )
