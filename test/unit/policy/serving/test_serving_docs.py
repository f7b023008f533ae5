"""docs/reference names every argument of the clients and of LocalPolicy, with the default the code has."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import Idle, LocalPolicy, Precision, RuntimeName
from openvla_policy.serving.cli import Options
from openvla_policy.serving.limits import Limits
from openvla_policy.serving.metrics import Metrics
from openvla_policy.serving.remote_policy import RemotePolicy
from openvla_ros.nodes.policy.backend import PASSED_ON
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import rows as parameter_rows

ROOT = Path(__file__).parents[4]
SERVING, POLICY = (ROOT / "docs" / "reference" / f"{name}.md" for name in ("serving", "policy-options"))


def rows(page: Path, heading: str) -> dict[str, list[str]]:
    """The rows of the first table under `heading`, by the name in their first cell."""
    text = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if cells and cells[0].startswith("`"):
            table[cells[0].strip("`")] = cells[1:]
    return table


def literal(default: object) -> str:
    return f"`{default!r}`"


def arguments(function: Callable[..., Any]) -> dict[str, object]:
    """Name -> default of what a caller may pass."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p.default for p in parameters if p.name not in ("self", "checkpoint") and p.kind not in kinds}


SERVER_OPTIONS = {field.name: field for field in dataclasses.fields(Options)}


def choices(option: str) -> tuple[str, ...]:
    """The values that an option of the server may have; none if any will do."""
    hint = get_type_hints(Options)[option]
    return get_args(hint) if get_origin(hint) is Literal else ()


def test_every_argument_of_the_clients():
    table = rows(SERVING, "Clients")
    code = arguments(RemotePolicy.__init__)
    assert table.keys() == code.keys()
    for name, default in code.items():
        assert name == "url" or table[name][0] == literal(default), name


def test_every_argument_of_local_policy():
    table = rows(POLICY, "LocalPolicy")
    code = arguments(load_policy) | arguments(LocalPolicy.__init__)
    assert table.keys() == code.keys()
    for name, default in code.items():
        assert name == "path" or table[name][0] == literal(default), name


def test_the_server_has_an_option_for_each_of_local_policy():
    code = arguments(load_policy) | arguments(LocalPolicy.__init__)
    assert code.keys() - {"path", "key_per_request"} <= SERVER_OPTIONS.keys()


@pytest.mark.parametrize(
    ("name", "literal"),
    [("precision", Precision), ("runtime", RuntimeName), ("vocabulary", Vocabulary), ("idle", Idle)],
)
def test_the_node_takes_what_the_policy_takes(name, literal):
    assert next(row for row in parameter_rows(PolicyParameters) if row.name == name).choices == get_args(literal)


def test_what_the_node_passes_on_exists():
    code = arguments(load_policy) | arguments(LocalPolicy.__init__)
    assert set(PASSED_ON) <= code.keys() & {row.name for row in parameter_rows(PolicyParameters)}


def test_the_page_names_every_metric():
    families = {line.split()[2] for line in Metrics().render().splitlines() if line.startswith("# TYPE")}
    assert [name for name in families if f"`{name}" not in SERVING.read_text()] == []


def test_the_page_s_numbers_are_those_of_the_code():
    from openvla_policy.serving import json_codec

    text = SERVING.read_text()
    assert (
        f"most {json_codec.MAX_SIDE} px" in text.replace("\n", " ")
        and f"most {json_codec.MAX_INSTRUCTION} characters" in text
    )
    assert f"{json_codec.MAX_PIXELS / 1e6:.1f}".startswith("33.") and "33.5 million" in text
    assert Limits().body == 32 * 2**20


def test_the_launch_file_s_arguments_are_options_of_the_server():
    tree = ast.parse((ROOT / "launch" / "serve.launch.py").read_text())
    table = next(n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "ARGUMENTS")
    for name, default, description in ast.literal_eval(table):
        assert name in SERVER_OPTIONS and description, name
        assert not default or not choices(name) or default in choices(name), name
