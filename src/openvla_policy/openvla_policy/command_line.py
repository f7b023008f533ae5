"""Command lines of every package: one dataclass a command, read by tyro, with `--version` and shell completion.

A command's options are the fields of a frozen dataclass; the docstring under a field is its help. Units stand in the
help in brackets, as in the rest of the documentation: `[s]`.

    @dataclass(frozen=True)
    class Options:
        output: Path
        \"\"\"Folder to write.\"\"\"
        rate: float = 5.0
        \"\"\"Actions a second [Hz].\"\"\"

    def main(arguments: Sequence[str] | None = None) -> int:
        options = parse(Options, arguments, prog="openvla-example", description="One sentence.")
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

T = TypeVar("T")


def parse(
    options: type[T],
    arguments: Sequence[str] | None = None,
    *,
    prog: str,
    description: str,
    flag_pairs: bool = False,
) -> T:
    """Read a command line into an instance of the dataclass `options`.

    Flags have hyphens (`--max-steps`; underscores are accepted). A boolean is a flag without a value. A field of type
    `UseAppendAction[tuple[...]]` may be given repeatedly, one of type `Positional[...]` has no flag (see tyro.conf).
    `--tyro-print-completion {bash,zsh,tcsh}` prints a completion script.

    Args:
        options: The dataclass; see the module's docstring.
        arguments: The words after the program's name. Default: those of this process.
        prog: The command's name.
        description: What the command does, for `--help`.
        flag_pairs: Whether every boolean has both `--name` and `--no-name`, so that a script can state a default.

    Returns:
        The options.

    Raises:
        SystemExit: 0 after `--help` or `--version`; 2 with a message on stderr when an argument is wrong.
    """
    import tyro  # 0.3 s: not for a process that only imports a command's module

    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:
        module = options.__module__
        if module == "__main__" and (spec := sys.modules[module].__spec__):  # `python -m`
            module = spec.name
        print(f"{prog} {package_version(module.split('.')[0])}")
        raise SystemExit(0)
    epilog = "--version prints the version; --tyro-print-completion SHELL prints a completion script."
    return tyro.cli(
        options,
        args=words,
        prog=prog,
        description=f"{description}\n\n{epilog}",
        config=(
            tyro.conf.HelptextFromCommentsOff,
            tyro.conf.DisallowNone,
            *(() if flag_pairs else (tyro.conf.FlagCreatePairsOff,)),
        ),
    )


def package_version(package: str) -> str:
    """The version of an installed package; 'unknown' of one that is only on PYTHONPATH."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
