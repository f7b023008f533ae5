"""Every command line of this project in the documentation is one that the command accepts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tyro
from docs_reference import commands, load
from page import PAGES, Block, blocks, calls

from openvla_training.trainer.config import option_rows

COMMANDS = commands()
CASES = [(page, block, call) for page in PAGES for block in blocks(page) for call in calls(block.text)]


class Parsed(BaseException):
    """The command line was accepted; the command itself does not run."""


def test_pages_and_packages_have_commands() -> None:
    assert len(CASES) > 20
    assert {"openvla-demo", "openvla-convert", "openvla-finetune"} <= COMMANDS.keys()


@pytest.mark.parametrize(("page", "block", "call"), CASES, ids=[f"{p.stem}:{b.line}-{c[0]}" for p, b, c in CASES])
def test_command_accepts_the_options(page: Path, block: Block, call: list[str], monkeypatch: Any) -> None:
    command, *arguments = (word for word in call if "…" not in word and not word.startswith("["))  # as in a synopsis
    assert command in COMMANDS, f"{page}:{block.line} names {command}, which does not exist"

    def then_stop(reader: Callable[..., Any]) -> Callable[..., Any]:
        def read(*given: Any, **named: Any) -> Any:
            monkeypatch.undo()  # tyro reads by argparse
            raise Parsed(reader(*given, **named))

        return read

    monkeypatch.setattr(sys, "argv", [command, *arguments])
    monkeypatch.setattr(tyro, "cli", then_stop(tyro.cli))
    known = argparse.ArgumentParser.parse_known_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", then_stop(known))
    try:
        load(COMMANDS[command])(arguments)
    except Parsed as parsed:
        options = parsed.args[0]
    except SystemExit as end:
        pytest.fail(f"{page}:{block.line}: {command} refuses {arguments} (status {end.code})")
    options, rest = options if isinstance(options, tuple) else (options, [])
    # Positional words between options are parsed in a second pass; what the first one leaves is checked here.
    assert not [word for word in rest if word.startswith("-")], f"{page}:{block.line}: {command} knows no {rest}"
    keys = [word.partition("=")[0] for word in [*getattr(options, "overrides", []), *rest] if "=" in word]
    wrong = sorted(set(keys) - {row.name for row in option_rows()})
    assert not wrong, f"{page}:{block.line}: openvla-train has no {wrong}"
