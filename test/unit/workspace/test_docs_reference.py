"""The documentation agrees with the code: generated tables, links, and the files it names."""

from __future__ import annotations

import re
from pathlib import Path

import docs_reference
import pytest
from page import PAGES

ROOT = Path(__file__).parents[3]
LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
FILE = re.compile(r"(?<![\w./~-])((?:[\w-]+/)+[\w.-]+\.(?:py|yaml|json|bash|sbatch|in|Dockerfile))\b")
MODULE = re.compile(r"(?<![\w./-])\w+\.py\b")
FOREIGN = {"deploy.py", "finetune.py", "reference_loader.py"}  # of the reference implementation, or written for it
OUTSIDE = {"outputs", "data", "meta"}  # what runs write, and folders of other projects' layouts
MODULES = {file.name for top in ("src", "test", "scripts", "launch") for file in (ROOT / top).rglob("*.py")}


def anchors(page: Path) -> set[str]:
    """Names by which a page's headings are linked, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", docs_reference.pages(), ids=lambda page: page.stem)
def test_generated_tables_are_current(page: Path) -> None:
    text = page.read_text("utf-8")
    assert docs_reference.generate(text) == text, "run make docs-reference"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text("utf-8")):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} does not exist"
        assert not anchor or anchor in anchors(file), f"{target} has no heading #{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    """A path is written from the repository's top, from a package, or from a folder in a package."""
    folders = [ROOT, *(ROOT / "src").glob("*"), *(ROOT / "src").glob("*/openvla_*"), page.parent]
    for name in set(FILE.findall(page.read_text("utf-8"))):
        if name.split("/")[0] not in OUTSIDE and "NAME" not in name:
            assert any((folder / name).exists() for folder in folders), f"{name} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_modules_exist(page: Path) -> None:
    named = set(MODULE.findall(page.read_text("utf-8"))) - FOREIGN
    assert named <= MODULES, f"no such modules: {sorted(named - MODULES)}"


def test_definition_takes_the_comment_above_a_field() -> None:
    text = "# What it is.\n\n# Since the start [s],\n# or 0.\nfloat64 a\nfloat64 b\n---\nbool ok\n"
    about, parts = docs_reference.definition(text)
    assert about == "What it is."
    assert parts == [[("`a`, `b`", "`float64`", "Since the start [s], or 0.")], [("`ok`", "`bool`", "")]]
