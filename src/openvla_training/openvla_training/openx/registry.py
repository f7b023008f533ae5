"""What is known of a dataset, one row each: where things stand in its steps and what they mean.

A row of Open X-Embodiment (`rows.py`) and a lab's own row (YAML, in a mixture file) are the same thing.
"""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args

from openvla_policy.contract.gripper import CONVENTIONS
from openvla_policy.contract.gripper_datasets import DatasetGripper
from openvla_training.openx.dataset import Dataset


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
