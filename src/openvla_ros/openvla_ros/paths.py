"""The folder of config/ and launch/, and files in it by name."""

from __future__ import annotations

import os
from pathlib import Path


def share_folder() -> Path:
    """The folder that holds config/ and launch/: the source tree, or share/openvla_ros of an installation.

    OPENVLA_SHARE overrides. Raises FileNotFoundError naming the folders tried.
    """
    here = Path(__file__).resolve()
    candidates = [Path(p) for p in [os.environ.get("OPENVLA_SHARE")] if p]
    candidates += list(here.parents)
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(p) / "share" / "openvla_ros" for p in prefixes if p]
    for folder in candidates:
        if (folder / "config" / "robots").is_dir():
            return folder
    raise FileNotFoundError(
        "no config/robots folder found; set OPENVLA_SHARE to the repository, or source env.bash. Looked in: "
        + ", ".join(str(c) for c in candidates)
    )


def resolve(path: str | Path) -> Path:
    """A path as a user writes it in YAML: absolute, `~`, relative to here, or relative to the share folder."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    shared = share_folder() / given
    return shared if shared.exists() else given


def config_file(folder: str, name: str, what: str) -> Path:
    """A YAML file by its name in config/`folder`, or by its path. FileNotFoundError says what it is, and the names."""
    shipped = share_folder() / "config" / folder
    for path in (shipped / f"{name}.yaml", Path(name).expanduser().absolute()):
        if path.is_file():
            return path
    names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
    raise FileNotFoundError(f"{what} '{name}' is neither a file nor one of {names}")
