"""The git commit of a working copy, for logs and result files."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any


def git_revision(folder: Path) -> dict[str, Any] | None:
    """The commit that a folder's working copy is at.

    Args:
        folder: Any folder of the working copy.

    Returns:
        `{"commit": 40 hexadecimal digits, "modified": whether tracked files differ from it}`; None outside a working
        copy, or without git.
    """
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changed.stdout.strip())}
