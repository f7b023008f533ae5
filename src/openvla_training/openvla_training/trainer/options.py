"""The options of a run as a text, for --help, and as a page, docs/reference/training.md; both from TrainConfig."""

from __future__ import annotations

import dataclasses
import textwrap
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from openvla_training.trainer.config import AugmentConfig, TrainConfig

_AUGMENT = {  # the meanings stand where the reference's augmentation is
    "crop_area": ("share of the area that is kept, drawn between these; null: no crop", ""),
    "brightness": ("largest offset, of values 0 to 1", ""),
    "contrast": ("factors are drawn between these; null: none", ""),
    "saturation": ("factors are drawn between these; null: none", ""),
    "hue": ("largest shift", "turns"),
}


@dataclasses.dataclass(frozen=True)
class Option:
    """One row of the table."""

    name: str
    kind: str
    default: str
    unit: str
    meaning: str


def options() -> Iterator[Option]:
    """All of them, in the order of the configuration."""
    yield from _of(TrainConfig, "")
    yield from _of(AugmentConfig, "augment.")


def as_help() -> str:
    """For the end of --help: name=default, kind [unit], meaning."""
    lines = ["options and their defaults, in a file as `name: value`, on the command line as name=value:"]
    for option in options():
        unit = f" [{option.unit}]" if option.unit else ""
        lines.append(f"  {option.name}={option.default}  ({option.kind}){unit}")
        lines += textwrap.wrap(option.meaning, 110, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def as_page() -> str:
    """The table of the reference page, in Markdown."""
    rows = ["| option | kind | default | unit | meaning |", "|---|---|---|---|---|"]
    for option in options():
        kind = option.kind.replace("|", "\\|")
        rows.append(f"| `{option.name}` | {kind} | `{option.default}` | {option.unit} | {option.meaning} |")
    return "\n".join(rows) + "\n"


def _of(cls: type, prefix: str) -> Iterator[Option]:
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        meaning, unit = _AUGMENT.get(field.name, ("", "")) if prefix else ("", "")
        meaning, unit = field.metadata.get("meaning", meaning), field.metadata.get("unit", unit)
        yield Option(prefix + field.name, _kind(hints[field.name]), _default(field), unit, meaning)


def _kind(hint: Any) -> str:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else _kind(a) for a in arguments)
    if origin is tuple:
        return f"list of {_kind(arguments[0])}"
    if dataclasses.is_dataclass(hint) or origin is not None:
        return "group"
    return {"str": "text", "float": "number", "int": "whole number", "bool": "true, false"}[hint.__name__]


def _default(field: dataclasses.Field) -> str:
    value = field.default
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {None: "null", True: "true", False: "false"}[value]
    if value is not dataclasses.MISSING:
        return str(value) or "(none)"
    return "…" if field.default_factory is not dataclasses.MISSING else "(needed)"


if __name__ == "__main__":
    print(as_page())
