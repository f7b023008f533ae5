"""Command lines: options from a dataclass, `--version`, completion, errors that name the option."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from openvla_policy.command_line import package_version, parse


@dataclass(frozen=True)
class Options:
    output: Path
    """Folder to write."""
    rate: float = 5.0
    """Actions a second [Hz]."""
    no_video: bool = False
    """Write no video."""
    camera: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A further camera; repeat for more."""


def read(*words: str) -> Options:
    return parse(Options, words, prog="openvla-example", description="An example.")


def test_reads_options_with_their_types():
    options = read("--output", "out", "--no-video", "--camera", "a", "--camera", "b")
    assert options == Options(Path("out"), 5.0, True, ("a", "b"))


def test_help_shows_units_and_defaults(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        read("--help")
    assert end.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Actions a second [Hz]. (default: 5.0)" in text
    assert "--no-no-video" not in text


def test_version_is_the_installed_package_s(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        read("--version")
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("openvla-example ")
    assert package_version("openvla_policy") == "0.1.0"
    assert package_version("not_installed") == "unknown"


@pytest.mark.parametrize(
    ("words", "name"), [((), "--output"), (("--output", "o", "--rate", "fast"), "--rate"), (("--raet", "1"), "--raet")]
)
def test_wrong_arguments_end_with_status_2_and_name_the_option(
    words: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as end:
        read(*words)
    assert end.value.code == 2
    assert name in capsys.readouterr().err


def test_version_is_known_under_python_m(root: Path):
    command = [sys.executable, "-m", "openvla_policy.serving.cli", "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root).stdout
    assert said == "openvla-serve 0.1.0\n"


def test_prints_a_completion_script(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        read("--tyro-print-completion", "bash")
    assert "openvla-example" in capsys.readouterr().out
