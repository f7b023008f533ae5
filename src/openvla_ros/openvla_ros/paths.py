"""Lookup of shipped files: the share folder (config/, launch/, checkpoints/) and files in it by name. No ROS import."""

from __future__ import annotations

import os
from pathlib import Path


def share_folder() -> Path:
    """The folder that holds config/, launch/ and checkpoints/.

    The first that exists of: OPENVLA_SHARE, the source tree around this file, share/openvla_ros of each prefix in
    AMENT_PREFIX_PATH.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: No candidate has a config/robots folder; the message lists the candidates.
    """
    candidates = [Path(p) for p in [os.environ.get("OPENVLA_SHARE")] if p]
    candidates += list(Path(__file__).resolve().parents)
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(p) / "share" / "openvla_ros" for p in prefixes if p]
    for folder in candidates:
        if (folder / "config" / "robots").is_dir():
            return folder
    raise FileNotFoundError(
        "no config/robots folder found; set OPENVLA_SHARE to the repository, or source env.bash. Looked in: "
        + ", ".join(str(c) for c in candidates)
    )


def shipped_config(*parts: str) -> Path:
    """A file or folder under the shipped config/, e.g. `shipped_config("robots", "sim.yaml")`; need not exist."""
    return share_folder().joinpath("config", *parts)


def resolve(path: str | Path) -> Path:
    """A path as users write it: absolute, with `~`, relative to the working directory or to the share folder."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    shared = share_folder() / given
    return shared if shared.exists() else given


def config_file(folder: str, name: str, what: str) -> Path:
    """A YAML file by its name in config/`folder`, or by its path.

    Args:
        folder: Subfolder of config/, e.g. `robots`.
        name: Name without `.yaml` of a file in it, or the path of any file.
        what: What the file configures, for the error message.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: There is no such file; the message lists the names in the folder.
    """
    shipped = shipped_config(folder)
    for path in (shipped / f"{name}.yaml", Path(name).expanduser().absolute()):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise FileNotFoundError(f"{what} '{name}' is neither a file nor one of {names}")
