"""What to propose in an error message about a name that does not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str | None = None) -> str:
    """Propose existing names for a misspelt one, as the end of an error message.

    Args:
        name: The unknown name.
        choices: The names that exist.
        otherwise: The proposal where no name is similar. Default: all names, in their order.

    Returns:
        "did you mean X or Y?" with up to three similar names, the most similar first; else `otherwise`.
    """
    known = list(choices)
    similar = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if similar:
        return f"did you mean {' or '.join(similar)}?"
    return otherwise or f"choose from {', '.join(known)}"
