"""What is known of a dataset, one row each: where things stand in its steps and what they mean.

A row of Open X-Embodiment (`rows.py`) and a lab's own row (YAML, in a mixture file) are the same thing.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from openvla_policy.contract.action import ACTION_DIM
from openvla_policy.contract.gripper import CONVENTIONS
from openvla_policy.contract.gripper_datasets import DATASETS, DatasetGripper
from openvla_training.openx.expressions import Expression, keys_of, parse

Layout = Literal["pos_euler", "pos_quat", "joint", "none"]
Frame = Literal["base", "wrist"]
Motion = Literal["delta", "velocity", "position"]
Filter = Literal["first_step", "reached_state", "zero_actions", "no_ops", "success"]
FILTERS: dict[str, str] = {
    "first_step": "drop each trajectory's first step, whose action is all zero",
    "reached_state": "replace the six motions by the difference to the next state; the last step goes",
    "zero_actions": "drop steps whose motion is zero, which slow learning where robots wait",
    "no_ops": "drop steps without motion whose gripper is as in the last step kept",
    "success": "keep only episodes whose top-level flag `success` is set",
}


@dataclass(frozen=True)
class Dataset:
    """One row. Keys are relative to a step; `action` and `state` are expressions (see `expressions`)."""

    name: str  # as in mixtures, and the policy's unnorm_key
    action: tuple[str, ...]  # seven columns: translation, rotation, gripper
    camera: tuple[str, ...] = ("image",)  # of the observation; of several one is drawn for each trajectory
    wrist: str | None = None  # of the observation
    state: tuple[str, ...] = ()
    language: tuple[str, ...] = ("language_instruction",)  # several wordings of the same task, where there are
    tfds: str = ""  # name in TFDS, where it is another
    version: str | None = None  # newest one published; None: unknown
    gripper: DatasetGripper = field(default_factory=DatasetGripper)  # of the recorded numbers
    layout: Layout = "none"  # of the state
    frame: Frame | None = None  # in whose axes actions are; None: not documented
    motion: Motion | None = "delta"  # what the six motion numbers are; None: not documented
    rate: float | None = None  # [Hz]
    filters: tuple[Filter, ...] = ()
    robot: str = ""
    arms: int = 1
    task: Literal["manipulation", "navigation"] = "manipulation"
    control: Literal["end_effector", "joint"] = "end_effector"
    third_person: bool = True  # the camera looks at the robot from outside
    bgr: bool = False  # the published pictures have red and blue swapped
    characters: bool = False  # the sentence is stored as one number a character
    transitions: int | None = None  # as counted in the statistics released with openvla-7b

    def __post_init__(self) -> None:
        where = f"dataset {self.name!r}"
        for name in ("action", "camera", "language"):
            if not getattr(self, name):
                raise ValueError(f"{where}: {name} is empty; name at least one key")
        unknown = [name for name in self.filters if name not in FILTERS]
        if unknown:
            raise ValueError(f"{where}: filter {unknown[0]!r} is unknown; choose of {', '.join(FILTERS)}")
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
        """`action`, parsed."""
        return tuple(parse(text) for text in self.action)

    @cached_property
    def state_expressions(self) -> tuple[Expression, ...]:
        """`state`, parsed."""
        return tuple(parse(text) for text in self.state)

    @property
    def keys(self) -> set[str]:
        """All numeric keys of a step that the row reads."""
        return set().union(*(keys_of(e) for e in (*self.action_expressions, *self.state_expressions)))

    def objections(self) -> list[str]:
        """Which rules of the paper's curation (section 3.3) the row breaks: none for what may train a policy."""
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


def find(name: str, extra: Mapping[str, Dataset] | None = None) -> Dataset:
    """The row of a dataset, out of `extra` (a mixture's own) or the registry.

    Raises:
        ValueError: there is none; the message names similar ones.
    """
    rows = registry() | dict(extra or {})
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see docs/reference/open-x.md for the rows there are"
        raise ValueError(f"dataset {name!r} is not in the registry; {hint} A new one needs a row under `rows:`")
    return rows[name]


def registry() -> dict[str, Dataset]:
    """All rows of Open X-Embodiment, by name."""
    from openvla_training.openx.rows import ROWS

    return ROWS


def gripper_of(name: str) -> DatasetGripper:
    """What a dataset's recorded gripper numbers mean (stands once, in the policy's contract)."""
    return DATASETS.get(name.removesuffix("_no_noops"), DATASETS.get(name, DatasetGripper()))


def from_mapping(name: str, values: Mapping[str, Any], where: str = "rows") -> Dataset:
    """A lab's own row, out of YAML.

    `gripper` is a convention's name or {convention, binarise}; lists may be single words.

    Raises:
        ValueError: an unknown or missing entry, a wrong type, an unreadable expression, with the remedy.
    """
    where = f"{where}: {name}"
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected entries such as `action: [...]`, found {values!r}")
    hints = typing.get_type_hints(Dataset)
    hints.pop("name")
    for key in values:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            choices = f"did you mean {near[0]}?" if near else f"the entries are {', '.join(hints)}"
            raise ValueError(f"{where}: unknown entry {key!r}; {choices}")
    if "action" not in values:
        raise ValueError(
            f"{where}: `action` is missing; say where the seven numbers are, as in "
            "action: ['action[0:6]', 'gripper(action[6])']"
        )
    row = Dataset(name=name, **{key: _read(hints[key], value, f"{where}: {key}") for key, value in values.items()})
    if any(text.startswith("gripper(") for text in row.action) and "gripper" not in values:
        raise ValueError(f"{where}: `gripper` is missing; choose one of {', '.join(CONVENTIONS)}")
    return row


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is DatasetGripper:
        entry = {"convention": value} if isinstance(value, str) else value
        known = [f.name for f in dataclasses.fields(DatasetGripper)]
        if not isinstance(entry, Mapping) or set(entry) - set(known) or entry.get("convention") not in CONVENTIONS:
            raise ValueError(f"{where}: {value!r} is no gripper; choose one of {', '.join(CONVENTIONS)}")
        return DatasetGripper(**entry)
    if typing.get_origin(kind) is tuple:
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            raise ValueError(f"{where}: {value!r} is no list of words")
        return tuple(entries)
    choices = [c for part in (kind, *get_args(kind)) if typing.get_origin(part) is Literal for c in get_args(part)]
    if choices:
        if value not in choices and not (value is None and type(None) in get_args(kind)):
            raise ValueError(f"{where}: {value!r} is unknown; choose one of {', '.join(choices)}")
        return value
    types = tuple(part for part in get_args(kind) or (kind,))
    if float in types and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{where}: {value!r} is not of type {' or '.join(t.__name__ for t in types)}")
    return value


def check_width(row: Dataset, width: int) -> None:
    """Raise unless the row's action has seven columns."""
    if width != ACTION_DIM:
        raise ValueError(
            f"dataset {row.name!r}: its `action` gives {width} columns, a policy's has {ACTION_DIM}; "
            f"mend the list {list(row.action)}"
        )
