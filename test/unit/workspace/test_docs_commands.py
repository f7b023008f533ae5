"""Every command line of ours in the documentation is one that the command takes."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import tyro
from page import Block, blocks, calls

from openvla_training.trainer.config import TrainConfig

ROOT = Path(__file__).parents[3]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "src").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


class Parsed(Exception):
    """The command line was taken; nothing else is to happen."""


def entry_points() -> dict[str, str]:
    """Command -> module:function, as the packages' setup.py have them: in lines `name = target`, or in a table."""
    found: dict[str, str] = {}
    for setup in (ROOT / "src").glob("*/setup.py"):
        text = setup.read_text("utf-8")
        found |= dict(re.findall(r"(openvla-[\w-]+) = ([\w.]+:\w+)", text))
        table = re.findall(r'"([\w-]+)": "([\w.]+:\w+)"', text)
        found |= {f"openvla-{name.replace('_', '-')}": target for name, target in table}
    return found


COMMANDS = entry_points()
CASES = [(page, block, call) for page in PAGES for block in blocks(page) for call in calls(block.text)]


def test_the_pages_have_commands_and_the_packages_too() -> None:
    assert len(CASES) > 20 and {"openvla-demo", "openvla-convert", "openvla-finetune"} <= COMMANDS.keys()


@pytest.mark.parametrize(("page", "block", "call"), CASES, ids=[f"{p.stem}:{b.line}-{c[0]}" for p, b, c in CASES])
def test_the_command_takes_it(page: Path, block: Block, call: list[str], monkeypatch: Any) -> None:
    command, *arguments = (word for word in call if "…" not in word and not word.startswith("["))  # as in a synopsis
    assert command in COMMANDS, f"{page}:{block.line} names {command}, which is no command of ours"
    by_argparse, by_tyro = argparse.ArgumentParser.parse_known_args, tyro.cli

    def parse_known_args(self: argparse.ArgumentParser, *given: Any, **named: Any) -> Any:
        raise Parsed(*by_argparse(self, *given, **named))

    def cli(*given: Any, **named: Any) -> Any:
        raise Parsed(by_tyro(*given, **named), [])

    module, function = COMMANDS[command].split(":")
    main = getattr(importlib.import_module(module), function)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", parse_known_args)
    monkeypatch.setattr(tyro, "cli", cli)
    monkeypatch.setattr(sys, "argv", [command, *arguments])
    try:
        main(arguments)
    except Parsed as parsed:
        namespace, rest = parsed.args
    except SystemExit as end:
        pytest.fail(f"{page}:{block.line}: {command} refuses {arguments} (status {end.code})")
    # Positional words between options are parsed in a second pass; what the first one leaves is checked here.
    assert not [word for word in rest if word.startswith("-")], f"{page}:{block.line}: {command} knows no {rest}"
    keys = [word.partition("=")[0] for word in [*getattr(namespace, "overrides", []), *rest] if "=" in word]
    options = set(TrainConfig.__dataclass_fields__)
    wrong = [key for key in keys if key.partition(".")[0] not in options]
    assert not wrong, f"{page}:{block.line}: openvla-train has no {wrong}"
