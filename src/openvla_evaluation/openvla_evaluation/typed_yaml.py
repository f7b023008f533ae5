"""YAML into dataclasses: pydantic checks the types, and errors name the file, the key, the value and the choices.

    @dataclass(frozen=True)
    class Settings:
        episodes: int = 10

    settings = validate(Settings, read_mapping(path), str(path))

A ValueError that the dataclass raises in `__post_init__` is reported with the same place in front.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
# pydantic speaks of JSON.
_IN_YAML = {"Input should be": "it must be", "an object": "a mapping", "a valid array": "a list"}


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; an empty file is an empty one.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, is not YAML, or holds something else than a mapping.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}; it must hold a mapping, one `key: value` a line")
    return content


def validate(kind: type[T], values: Mapping[str, Any], where: str, **given: Any) -> T:
    """Make a dataclass of what YAML holds, without converting types: `'3'` is no integer, `1` is no truth value.

    Args:
        kind: The dataclass; its fields may be dataclasses, literals, tuples, mappings.
        values: Its fields by name.
        where: The file, which begins each error message.
        **given: Fields that do not come from YAML, and may not stand there.

    Returns:
        The dataclass.

    Raises:
        ValueError: A key is unknown or missing, or a value is of the wrong type or refused by the dataclass.
    """
    from pydantic import TypeAdapter, ValidationError

    keys = [field.name for field in fields(kind) if field.name not in given]  # type: ignore[arg-type]
    for key in values:
        if key not in keys:
            raise ValueError(f"{where}: unknown key {key!r}; choose from {', '.join(keys)}")
    try:
        # As JSON, a list may become a tuple even where types are strict.
        text = json.dumps({**values, **given}, default=str)
        return TypeAdapter(kind).validate_json(text, strict=True, extra="forbid")
    except ValidationError as error:
        raise ValueError("; ".join(f"{where}: {_sentence(one)}" for one in error.errors())) from None


def _sentence(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "value_error":
        return f"{key}: {error['ctx']['error']}" if key else str(error["ctx"]["error"])
    if error["type"] == "unexpected_keyword_argument":
        return f"unknown key {key!r}"
    if error["type"].startswith("missing"):
        return f"{key} is missing"
    message = error["msg"]
    for json_word, yaml_word in _IN_YAML.items():
        message = message.replace(json_word, yaml_word)
    return f"{key} is {error['input']!r}; {message}"
