"""The registry of datasets: the rows of Open X-Embodiment (`rows.py`), and a lab's own rows (YAML, in a mixture)."""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any

from openvla_policy.contract.gripper import CONVENTIONS
from openvla_policy.suggestions import did_you_mean
from openvla_training.openx.dataset import Dataset


def find(name: str, extra: Mapping[str, Dataset] | None = None) -> Dataset:
    """Look a dataset up.

    Args:
        name: The dataset.
        extra: Rows besides the registry's, a mixture's own.

    Returns:
        Its row.

    Raises:
        ValueError: There is none; the message names similar ones.
    """
    rows = registry() | dict(extra or {})
    if name not in rows:
        hint = did_you_mean(name, rows, otherwise="see docs/reference/open-x.md for its rows.")
        raise ValueError(f"dataset {name!r} is not in the registry; {hint} A new one needs a row under `rows:`")
    return rows[name]


def registry() -> dict[str, Dataset]:
    """All rows of Open X-Embodiment, by name."""
    from openvla_training.openx.rows import ROWS

    return ROWS


def row_values(name: str, values: Any, where: str) -> dict[str, Any]:
    """Complete a row of YAML to the fields of :class:`Dataset`.

    A single word may stand for a list of one, and a convention's name for a gripper.

    Args:
        name: The dataset.
        values: What YAML holds under its name.
        where: File and key, which begin each error message.

    Returns:
        The fields, whose types are not checked yet.

    Raises:
        ValueError: A key is unknown, or `action` or `gripper` is missing.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {values!r}; it must be a mapping, with keys such as `action`")
    kinds = {key: kind for key, kind in typing.get_type_hints(Dataset).items() if key != "name"}
    for key in values:
        if key not in kinds:
            raise ValueError(f"{where}: unknown key {key!r}; {did_you_mean(str(key), kinds)}")
    if "action" not in values:
        raise ValueError(
            f"{where}: `action` is missing; say where the seven numbers are, as in "
            "action: ['action[0:6]', 'gripper(action[6])']"
        )
    row: dict[str, Any] = {"name": name, **values}
    for key, value in values.items():
        if isinstance(value, str) and typing.get_origin(kinds[key]) is tuple:
            row[key] = [value]
    if isinstance(row.get("gripper"), str):
        row["gripper"] = {"convention": row["gripper"]}
    gripper = row.get("gripper")
    if any(str(text).startswith("gripper(") for text in row["action"] or ()) and not gripper:
        raise ValueError(f"{where}: `gripper` is missing; choose from {', '.join(CONVENTIONS)}")
    return row
