"""docs/reference names every option of server, clients, LocalPolicy and policy node, with the default the code has."""

from __future__ import annotations

import argparse
import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import Idle, LocalPolicy, Precision, RuntimeName
from openvla_policy.serving.cli import parser
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


def shown(default: object) -> str:
    return f"`{default!r}`"


def arguments(function: Callable[..., Any]) -> dict[str, object]:
    """Name -> default of what a caller may pass."""
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name: p.default for p in parameters if p.name not in ("self", "checkpoint") and p.kind not in kinds}


def test_every_option_of_the_server():
    table = rows(SERVING, "Options")
    options = [action for action in parser()._actions if not isinstance(action, argparse._HelpAction)]
    assert table.keys() == {a.option_strings[0] if a.option_strings else "CHECKPOINT" for a in options}
    for action in options:
        if not action.option_strings:
            continue
        default, unit, meaning = table[action.option_strings[0]]
        absent = "none" if action.default is None else "off" if action.default is False else None
        wanted = absent or (f"`{action.default}`" if action.default != "" else "`''`")
        assert default == wanted, f"{action.option_strings[0]}: the page says {default}"
        assert action.help and meaning
        units = {"S": "s", "MS": "ms", "BYTES": "bytes"}
        assert unit == units.get(str(action.metavar), unit), f"{action.option_strings[0]}: the page's unit is {unit}"
        for choice in action.choices or ():
            assert choice in meaning or action.option_strings[0] in ("--idle", "--gripper"), choice


def test_every_argument_of_the_clients():
    table = rows(SERVING, "Clients")
    code = arguments(RemotePolicy.__init__)
    assert table.keys() == code.keys()
    for name, default in code.items():
        assert name == "url" or table[name][0] == shown(default), name


def test_every_argument_of_local_policy():
    table = rows(POLICY, "LocalPolicy")
    code = arguments(load_policy) | arguments(LocalPolicy.__init__)
    assert table.keys() == code.keys()
    for name, default in code.items():
        assert name == "path" or table[name][0] == shown(default), name
    served = {action.dest for action in parser()._actions}
    assert code.keys() - {"path", "key_per_request"} <= served, "openvla-serve has an option for each"


def test_every_parameter_of_the_policy_node():
    table = rows(POLICY, "The policy node")
    assert table.keys() == {row.name for row in parameter_rows(PolicyParameters)}
    for row in parameter_rows(PolicyParameters):
        default, unit, meaning = table[row.name]
        value = str(row.default).lower() if isinstance(row.default, bool) else row.default
        value = "''" if value == "" else value
        assert (default, unit) == (f"`{value}`", row.unit), row.name
        assert meaning.startswith(row.description) and row.constraint in meaning, row.name


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
    assert all(f"`{name}" in SERVING.read_text() for name in families)


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
    options = {action.dest: action for action in parser()._actions}
    for name, default, description in ast.literal_eval(table):
        assert name in options and description, name
        choices = options[name].choices
        assert not default or not choices or default in choices, name
