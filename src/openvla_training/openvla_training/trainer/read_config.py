"""Reads the configuration of a run from a YAML file and `group.key=value` overrides."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from openvla_policy.suggestions import did_you_mean
from openvla_training.trainer.config import GROUPS, SHAPE_OPTIONS, TrainConfig, option_rows

log = logging.getLogger(__name__)
# Before November 2026 all options stood on one level. These four had another name, or none, and "output", "data" and
# "optimizer" were options themselves.
_RENAMED = {"folder": "output", "datasets": "data", "name": "optimizer", "shape": None}
MOVED = {
    flat: f"{group}.{f.name}"
    for group, cls in GROUPS.items()
    for f in fields(cls)
    if (flat := _RENAMED.get(f.name, f.name)) is not None
}
"""The present place of each option, by its former name."""


def recipe_of(strategy: str) -> Path:
    """The file of config/training with the recommended options of a fine-tuning strategy."""
    home = os.environ.get("OPENVLA_HOME")
    root = Path(home) if home else Path(__file__).resolve().parents[4]
    return root / "config" / "training" / f"{'full_finetune' if strategy == 'full' else strategy}.yaml"


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply overrides such as `data.batch_size=64` or `model.shape.layers=3`.

    Option names from before there were groups (`batch_size`) are accepted, and a log line names their new place.

    Args:
        path: The YAML file; None: the overrides alone.
        overrides: `key=value`, each value in YAML. They win over the file, and later ones over earlier ones.

    Returns:
        The configuration.

    Raises:
        ValueError: An option is unknown, missing or has a value that is not allowed; names file, key and choices.
    """
    from pydantic import TypeAdapter, ValidationError

    values: dict[str, Any] = {group: {} for group in GROUPS}
    moved: dict[str, str] = {}
    if path is not None:
        loaded = yaml.safe_load(Path(path).read_text("utf-8")) or {}
        if not isinstance(loaded, dict):
            raise ValueError(f"{path}: expected a mapping of options, found {type(loaded).__name__}")
        for key, value in loaded.items():
            _set(values, str(key), value, moved, str(path))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: write key=value")
        _set(values, key, yaml.safe_load(text), moved, f"override {override!r}")
    if moved:
        log.info("options have moved: %s", "; ".join(f"{old} is now {new}" for old, new in moved.items()))
    if isinstance(values["data"].get("datasets"), str):
        values["data"]["datasets"] = [values["data"]["datasets"]]
    try:
        return TypeAdapter(TrainConfig).validate_python(values)
    except ValidationError as error:
        where = f"{path}" if path is not None else "command line"
        raise ValueError("\n".join(f"{where}: {_problem(one)}" for one in error.errors())) from None


def _set(values: dict[str, Any], key: str, value: Any, moved: dict[str, str], where: str) -> None:
    """Put one option where it belongs; a whole group option by option, so that it adds to what is there."""
    if key in GROUPS and isinstance(value, Mapping):
        for name, child in value.items():
            _set(values, f"{key}.{name}", child, moved, where)
        return
    if key in GROUPS and value is None:
        return
    group, _, rest = key.partition(".")
    new = key
    if group == "model" and rest.partition(".")[0] in SHAPE_OPTIONS:
        new = f"model.shape.{rest}"
    elif group in MOVED and (not rest or group not in GROUPS):
        new = f"{MOVED[group]}.{rest}" if rest else MOVED[group]
    if new != key:
        moved[key] = new
    *parents, last = new.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ValueError(f"{where}: {parent} is {place!r}, not a group of options")
    place[last] = value


def _problem(error: Mapping[str, Any]) -> str:
    """One of pydantic's findings as: key, value, what is allowed."""
    key, kind, value = ".".join(map(str, error["loc"])), error["type"], error["input"]
    if kind == "missing":
        return f"{key} must be given"
    if kind == "unexpected_keyword_argument":
        group, _, name = key.rpartition(".")
        known = [row.name.rpartition(".")[2] for row in option_rows() if row.name.rpartition(".")[0] == group]
        return f"unknown option {key!r}; {did_you_mean(name, known if group else [*GROUPS, *known, *MOVED])}"
    if kind == "value_error" and isinstance(value, Mapping):  # of a group's own check, which names its keys
        return str(error["ctx"]["error"])
    if kind == "dataclass_type":
        return f"{key}: {value!r} is not a group of options"
    allowed = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{key}: {value!r} is not allowed; it must be {allowed}"
