"""The policy node, openvla-serve and its launch file have the options of the policy, with the same choices."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from openvla_policy.runtime.decoding import Vocabulary
from openvla_policy.runtime.load import load_policy
from openvla_policy.runtime.local_policy import Idle, LocalPolicy, Precision, RuntimeName
from openvla_policy.serving.cli import Options
from openvla_ros.nodes.policy.backend import PASSED_ON
from openvla_ros.nodes.policy.parameters import PolicyParameters
from openvla_ros.parameters import rows

POLICY_OPTIONS = {
    name
    for function in (load_policy, LocalPolicy)
    for name, parameter in inspect.signature(function).parameters.items()
    if parameter.kind is inspect.Parameter.KEYWORD_ONLY
}
SERVER_OPTIONS = {field.name for field in dataclasses.fields(Options)}
NODE_PARAMETERS = {row.name: row for row in rows(PolicyParameters)}


@pytest.mark.parametrize(
    ("name", "literal"),
    [("precision", Precision), ("runtime", RuntimeName), ("vocabulary", Vocabulary), ("idle", Idle)],
)
def test_node_has_the_choices_of_the_policy(name: str, literal: Any) -> None:
    assert NODE_PARAMETERS[name].choices == get_args(literal)


def test_options_that_the_node_passes_on_exist() -> None:
    assert set(PASSED_ON) <= POLICY_OPTIONS & NODE_PARAMETERS.keys()


def test_server_has_an_option_for_each_of_the_policy() -> None:
    assert POLICY_OPTIONS - {"key_per_request"} <= SERVER_OPTIONS  # which the server always sets


def test_arguments_of_the_launch_file_are_options_of_the_server(root: Path) -> None:
    tree = ast.parse((root / "launch" / "serve.launch.py").read_text("utf-8"))
    (table,) = [node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "ARGUMENTS"]
    hints = get_type_hints(Options)
    for name, default, description in ast.literal_eval(table):
        assert name in SERVER_OPTIONS
        assert description
        choices = [choice for choice in get_args(hints[name]) if isinstance(choice, str)]
        assert not default or not choices or default in choices, name
