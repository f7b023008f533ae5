"""What a result depends on, for summary.json: weights, versions and commit. No ROS."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from openvla_ros.paths import share_folder

PACKAGES = (
    "openvla_ros",
    "openvla_policy",
    "openvla_msgs",
    "torch",
    "numpy",
    "mujoco",
    "robosuite",
    "ros-jazzy-rclpy",
)


def checkpoint_identity(folder: str) -> dict[str, Any]:
    """Folder and hashes of the weights; {"checkpoint": None} without a checkpoint."""
    if not folder:
        return {"checkpoint": None}
    digests = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"checkpoint": folder, "sha256": digests}


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    return {"python": platform.python_version(), "cpu_cores": str(os.cpu_count())} | dict(_installed())


def _installed() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def git_revision() -> dict[str, Any] | None:
    """Commit of the workspace and whether files differ from it; None outside a git checkout."""
    try:
        where = ["git", "-C", str(share_folder())]
        commit = subprocess.run([*where, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run([*where, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if commit.returncode:
        return None
    return {"commit": commit.stdout.strip(), "modified": bool(changed.stdout.strip())}
