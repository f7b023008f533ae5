"""Reference tables in docs/, generated from the code: options, ROS parameters, messages, datasets, limits.

A page holds each table between two comments; what follows "generated:" names a function of TABLES and its arguments:

    <!-- generated: options openvla-serve -->
    <!-- end -->

`python scripts/docs_reference.py` (`make docs-reference`) rewrites every table in place.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import docstring_parser
import tyro
import yaml

from openvla_ros.parameters import rows as parameter_rows

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

NODES = {  # node -> module:class of its parameters
    "bridge_node": "openvla_ros.nodes.bridge.parameters:BridgeParameters",
    "policy_node": "openvla_ros.nodes.policy.parameters:PolicyParameters",
    "recorder_node": "openvla_ros.nodes.recorder.parameters:RecorderParameters",
    "teleop_node": "openvla_ros.nodes.teleop.parameters:TeleopParameters",
    "sim_node": "openvla_ros.nodes.sim.parameters:SimParameters",
    "lifecycle_manager": "openvla_ros.nodes.lifecycle_manager:LifecycleManagerParameters",
}

ROBOT_LIMITS = [  # row of docs/reference/safety.md, parameters, unit
    ("workspace", ("workspace.low", "workspace.high"), "m"),
    ("lean of the tool", ("cone.angle",), "rad"),
    ("largest action", ("limit.translation", "limit.rotation"), "m, rad"),
    ("speed", ("limit.speed", "limit.turn"), "m/s, rad/s"),
    ("acceleration", ("limit.acceleration", "limit.turn_acceleration"), "m/s², rad/s²"),
    ("jerk", ("limit.jerk", "limit.turn_jerk"), "m/s³, rad/s³"),
    ("braking time", ("stop.time",), "s"),
    ("time between gripper commands", ("gripper.interval",), "s"),
    ("watchdogs", ("watchdog.observation", "watchdog.action", "watchdog.state"), "s"),
    ("following error", ("leash.translation", "leash.rotation"), "m, rad"),
    ("factor on actions", ("scale",), ""),
]


class CommandLine(BaseException):
    """Raised in place of reading a command line; its argument is the dataclass of the options."""


def pages() -> list[Path]:
    """Every page that has generated tables."""
    return [page for page in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(page.read_text("utf-8"))]


def generate(text: str) -> str:
    """The page's text with every generated table as the code has it now."""

    def replace(block: re.Match[str]) -> str:
        name, *arguments = block[2].split()
        return f"{block[1]}\n{TABLES[name](*arguments)}\n\n{block[3]}"

    return BLOCK.sub(replace, text)


def commands() -> dict[str, str]:
    """Every command of the packages' setup.py, with its `module:function`."""
    found: dict[str, str] = {}
    for setup in sorted((ROOT / "src").glob("*/setup.py")):
        text = setup.read_text("utf-8")
        found |= dict(re.findall(r"(openvla-[\w-]+) = ([\w.]+:\w+)", text))
        table = re.findall(r'"([\w-]+)": "([\w.]+:\w+)"', text)
        found |= {f"openvla-{name.replace('_', '-')}": target for name, target in table}
    return found


def load(target: str) -> Any:
    """The object that `module:name` names."""
    module, name = target.split(":")
    return getattr(importlib.import_module(module), name)


def command_line(command: str) -> Any:
    """What a command reads its options into: the dataclass it gives to tyro, or its argparse parser."""

    def with_tyro(options: Any, **_: Any) -> Any:
        raise CommandLine(options)

    def with_argparse(parser: argparse.ArgumentParser, *_: Any) -> Any:
        raise CommandLine(parser)

    with (
        mock.patch.object(tyro, "cli", with_tyro),
        mock.patch.object(argparse.ArgumentParser, "parse_known_args", with_argparse),
    ):
        try:
            load(commands()[command])([])
        except CommandLine as found:
            return found.args[0]
    raise AssertionError(f"{command} reads no command line")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; line breaks and bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def options(command: str) -> str:
    """Options of a command: one table, or one a subcommand."""
    line = command_line(command)
    if isinstance(line, argparse.ArgumentParser):
        rows = {"": list(parser_rows(line))}
        for action in line._actions:  # noqa: SLF001
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
                rows = {name: list(parser_rows(parser)) for name, parser in action.choices.items()}
    else:
        rows = {"": list(field_rows(line))}
        for hint in typing.get_type_hints(line, include_extras=True).values():
            members = typing.get_args(unwrap(hint)[0])
            if members and all(dataclasses.is_dataclass(unwrap(member)[0]) for member in members):
                rows = {marks[0].name: list(field_rows(cls)) for cls, marks in map(unwrap, members)}
    head = ("option", "value", "default", "meaning")
    return "\n\n".join(
        (f"`{command} {name}`:\n\n" if name else "") + table(head, found) for name, found in rows.items()
    )


def parser_rows(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str, str]]:
    """Flag, kind of value, default and help of each option of an argparse parser."""
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._HelpAction):  # noqa: SLF001
            continue
        flag = ", ".join(action.option_strings) or str(action.metavar or action.dest)
        value = ", ".join(map(str, action.choices or ())) or str(action.metavar or "") * bool(action.option_strings)
        default = "" if action.default in (None, False, True, [], ()) else f"`{str(action.default) or repr('')}`"
        if action.required:
            default = "required"
        text = (action.help or "") % {"default": action.default, "prog": parser.prog}
        text = re.sub(r"[\s(;,]*default: [^)]*\)?$", "", text)
        if "all cores" in (action.help or ""):
            default = ""
        yield f"`{flag}`", value, default, text


def unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type and what `Annotated` says of it."""
    if typing.get_origin(hint) is typing.Annotated:
        bare, *marks = typing.get_args(hint)
        return bare, tuple(marks)
    return hint, ()


def field_rows(cls: Any) -> Iterator[tuple[str, str, str, str]]:
    """Flag, kind of value, default and help of each field of a dataclass, as tyro reads them."""
    hints = typing.get_type_hints(cls, include_extras=True)
    texts = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(cls).params}
    for field in dataclasses.fields(cls):
        hint, marks = unwrap(hints[field.name])
        if dataclasses.is_dataclass(hint):
            yield from field_rows(hint)
            continue
        metavar, hint_text = (
            next(filter(None, (getattr(mark, name, None) for mark in marks)), "")
            for name in ("metavar", "help_behavior_hint")
        )
        flag = "--" + ("no-" if field.default is True else "") + field.name.replace("_", "-")
        if tyro.conf.Positional in marks:
            flag = metavar or field.name.upper()
        value = "" if hint is bool or flag[0] != "-" else metavar or kind(hint)
        default = str(hint_text).strip("()").removeprefix("default: ") or default_text(field)
        yield f"`{flag}`", value, default, texts.get(field.name, "")


def kind(hint: Any) -> str:
    """A type for a reader: choices of a Literal, text, number, path, a list of them."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(kind(a) for a in arguments if a is not types.NoneType)
    if origin in (tuple, list, typing.get_origin(Sequence[int])):
        return " ".join(kind(a) for a in arguments if a is not Ellipsis) + (" …" if arguments[-1] is Ellipsis else "")
    return {bool: "", str: "text", int: "integer", float: "number", Path: "path"}.get(hint, str(hint))


def default_text(field: dataclasses.Field[Any]) -> str:
    """A default for a reader; a flag that is off and an option without one have none."""
    if field.default is dataclasses.MISSING:
        return "required" if field.default_factory is dataclasses.MISSING else ""
    if isinstance(field.default, bool):
        return "on" if field.default else ""
    if field.default is None or field.default == ():
        return ""
    value = " ".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    return f"`{value or repr('')}`"


def parameters(node: str) -> str:
    """ROS parameters of a node, as it declares them."""
    rows = []
    for row in parameter_rows(load(NODES[node])):
        unit = row.unit if row.unit != "1" else ""
        allowed = ", ".join(f"`{choice}`" for choice in row.choices) or row.range
        rows.append((f"`{row.name}`", f"`{yaml_text(row.default)}` {unit}", allowed, row.description))
    return table(("parameter", "default", "allowed", "meaning"), rows)


def yaml_text(value: object) -> str:
    """A value as it is written in a YAML file."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def arguments(*targets: str) -> str:
    """Keyword arguments of functions and classes, from their signatures and docstrings."""
    rows = []
    for function in map(load, targets):
        documented = function.__init__ if isinstance(function, type) else function
        texts = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(documented).params}
        rows += [
            (f"`{name}`", f"`{parameter.default!r}`", texts[name])
            for name, parameter in inspect.signature(function).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        ]
    return table(("argument", "default", "meaning"), rows)


def metrics() -> str:
    """What /metrics of the policy server publishes."""
    from openvla_policy.serving.metrics import Metrics

    names = {"counter": "_total", "gauge": "", "histogram": ""}
    rows = [(f"`{m.name}{names[m.type]}`", m.type, m.documentation) for m in Metrics().registry.collect()]
    return table(("metric", "type", "meaning"), rows)


def request_limits() -> str:
    """What a request to the policy server may contain."""
    from openvla_policy.serving.json_codec import MAX_INSTRUCTION, MAX_PIXELS, MAX_SIDE

    image = f"at most {MAX_SIDE} px a side and {MAX_PIXELS / 1e6:.1f} million pixels in all"
    return f"Images: uint8 RGB (H, W, 3), {image}. Instructions: at most {MAX_INSTRUCTION} characters."


def training() -> str:
    """Options of a training run, from its configuration."""
    from openvla_training.trainer.config import option_rows

    rows = ((f"`{row.name}`", row.type, f"`{row.default}` {row.unit}", row.meaning) for row in option_rows())
    return table(("option", "value", "default", "meaning"), rows)


def strategies() -> str:
    """Millions of trained parameters by strategy, at the 7B shape with SigLIP alone and fused."""
    from openvla_policy.model.config import openvla_7b, siglip_7b
    from openvla_training.trainer.strategies import STRATEGIES, trainable_parameters

    rows = []
    for names, rank in [(("full",), 0), (("last_layer",), 0), (("frozen_vision",), 0), (("sandwich",), 0),
                        (("lora", "qlora"), 32), (("lora", "qlora"), 64)]:  # fmt: skip
        counts = [trainable_parameters(s(), STRATEGIES[names[0]], rank or 32) / 1e6 for s in (siglip_7b, openvla_7b)]
        label = ", ".join(f"`{name}`" for name in names) + (f", rank {rank}" if rank else "")
        rows.append((label, *(f"{count:.1f}" for count in counts)))
    return table(("strategy", "SigLIP alone (Table 1)", "fused (the released model)"), rows)


def datasets() -> str:
    """The registry of Open X-Embodiment datasets."""
    from openvla_training.openx.cli import rows_table

    return rows_table()


def messages(kind: str) -> str:
    """Fields of every message, service or action of openvla_msgs, with the comments of its definition."""
    sections = []
    for file in sorted((ROOT / "src" / "openvla_msgs" / kind).glob(f"*.{kind}")):
        about, parts = definition(file.read_text("utf-8"))
        names = {"msg": ("",), "srv": ("Request", "Response"), "action": ("Goal", "Result", "Feedback")}[kind]
        section = [f"### {file.stem}", about]
        for name, rows in zip(names, parts, strict=True):
            if rows:
                section += ([f"**{name}**"] if name else []) + [table(("field", "type", "meaning"), rows)]
        sections.append("\n\n".join(section))
    return "\n\n".join(sections)


def definition(text: str) -> tuple[str, list[list[tuple[str, str, str]]]]:
    """A .msg, .srv or .action file: the comment at its top, and the rows of each part.

    A comment stands above the fields it describes. Fields that share a comment follow it without a blank line and share
    a row.

    Returns:
        The text at the top, and for each part (request, response, …) its rows: names, types, meaning.
    """
    about, _, rest = text.partition("\n\n")
    if not all(line.startswith("#") for line in about.splitlines()):
        about, rest = "", text
    parts: list[list[tuple[str, str, str]]] = [[]]
    for part in re.split(r"^---$", rest, flags=re.MULTILINE):
        for block in re.split(r"\n\s*\n", part):
            lines = block.strip().splitlines()
            comment = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
            fields = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
            if fields:
                kinds = dict.fromkeys(kind for kind, _ in fields)
                names = ", ".join(f"`{name}`" for _, name in fields)
                parts[-1].append((names, ", ".join(f"`{kind}`" for kind in kinds), comment))
        parts.append([])
    return " ".join(line[1:].strip() for line in about.splitlines()), parts[:-1]


def robot_limits() -> str:
    """The limits that the shipped YAML sets on each robot, as its bridge starts with them."""
    from openvla_ros.bringup.process_table import ROBOTS

    names = ("sim", "franka", "widowx", "generic")
    columns = []
    for name in names:
        values = {row.name: row.default for row in parameter_rows(load(NODES["bridge_node"]))}
        for file in ROBOTS[name]["bridge_node"]:
            content = yaml.safe_load((ROOT / "config" / file).read_text("utf-8"))
            values |= content["/**/bridge_node"]["ros__parameters"]
        columns.append(values)
    rows = [
        (
            f"{label}, " + ", ".join(f"`{key}`" for key in keys) + (f" [{unit}]" if unit else ""),
            *(", ".join(number(values[key]) for key in keys) for values in columns),
        )
        for label, keys, unit in ROBOT_LIMITS
    ]
    return table(("limit", *names), rows)


def number(value: object) -> str:
    """A value of a parameter, lists in parentheses."""
    if isinstance(value, list):
        return f"({', '.join(map(number, value))})"
    return f"{value:g}" if isinstance(value, float) else str(value)


TABLES: dict[str, Callable[..., str]] = {
    "options": options,
    "arguments": arguments,
    "metrics": metrics,
    "request-limits": request_limits,
    "parameters": parameters,
    "training": training,
    "strategies": strategies,
    "datasets": datasets,
    "messages": messages,
    "robot-limits": robot_limits,
}


def main() -> None:
    """Rewrite the tables of every page."""
    for page in pages():
        old = page.read_text("utf-8")
        new = generate(old)
        if new != old:
            page.write_text(new, "utf-8")
            print(f"{page.relative_to(ROOT)}: written")


if __name__ == "__main__":
    main()
