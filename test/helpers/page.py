"""The pages of the documentation, their shell blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "src").glob("*/README.md")),
    *sorted((ROOT / "checkpoints").glob("*/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```bash *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A shell block of a page.

    Attributes:
        mark: The word after ```bash, such as `run`.
        text: The commands.
        line: Line of the page where it starts, for messages.
    """

    mark: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    """The page's bash blocks, in order."""
    text = page.read_text("utf-8")
    return [Block(m[1].strip(), m[2], text.count("\n", 0, m.start()) + 1) for m in BLOCK.finditer(text)]


def calls(text: str) -> list[list[str]]:
    """The calls of this project's commands (`openvla-…`), each as a list of words, as a shell would split them."""
    found: list[list[str]] = []
    for line in re.sub(r"\\\n", " ", text).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        call: list[str] | None = None
        for word in lexer:
            if re.fullmatch(r"[;&|()<>]+|\$", word):
                call = None
            elif call is not None:
                call.append(word)
            elif re.fullmatch(r"openvla-[a-z-]+", word):
                found.append(call := [word])
    return found
