"""What a result depends on, for summary.json and recorded bags: weights, versions, commit. No ROS import."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from openvla_policy import revision
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
    """Folder and SHA-256 digests of a checkpoint's weights; `{"checkpoint": None}` for ''."""
    if not folder:
        return {"checkpoint": None}
    digests = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {"checkpoint": folder, "sha256": digests}


def versions() -> dict[str, str]:
    """Versions of Python and of the installed PACKAGES, and the number of CPU cores."""
    return {"python": platform.python_version(), "cpu_cores": str(os.cpu_count())} | dict(_installed())


def _installed() -> Iterator[tuple[str, str]]:
    for name in PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def git_revision() -> dict[str, Any] | None:
    """Commit of the workspace and whether tracked files differ from it; None outside a git checkout."""
    return revision.git_revision(share_folder())
