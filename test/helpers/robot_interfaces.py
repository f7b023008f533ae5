"""The robots' message packages for the tests: built once from the definitions in test/ros_ws, as an overlay.

franka_msgs, interbotix_xs_msgs, control_msgs, controller_manager_msgs, moveit_msgs and tf2_msgs are on no Python
registry. Installed ones take precedence. `environment()` builds if a definition changed (a minute on two cores), and
returns the variables that a process needs.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "test" / "ros_ws" / "src"
OUT = ROOT / "build" / "test_interfaces"
PACKAGES = tuple(sorted(folder.name for folder in SOURCES.iterdir()))


def installed() -> bool:
    """Whether this Python has all of them installed."""
    return all(importlib.util.find_spec(name) for name in PACKAGES)


def environment() -> dict[str, str]:
    """Variables for a process that uses the interfaces; empty if they are installed."""
    if installed():
        return {}
    build()
    install = OUT / "install"
    site = next(install.glob("lib/python*/site-packages"))
    prepend = {"PYTHONPATH": site, "LD_LIBRARY_PATH": install / "lib", "AMENT_PREFIX_PATH": install}
    return {name: os.pathsep.join([str(path), *filter(None, [os.environ.get(name)])]) for name, path in prepend.items()}


def build() -> None:
    """Build what is missing; one process at a time."""
    files = sorted(path for path in SOURCES.rglob("*") if path.is_file())
    key = hashlib.sha256(b"".join(path.read_bytes() for path in files) + sys.executable.encode()).hexdigest()
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = OUT / "stamp"
        if stamp.exists() and stamp.read_text() == key:
            return
        command = [
            sys.executable, "-m", "colcon", "--log-base", str(OUT / "log"), "build", "--merge-install",
            "--base-paths", str(SOURCES), "--build-base", str(OUT / "build"), "--install-base", str(OUT / "install"),
            "--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF",
        ]  # fmt: skip
        environment = {k: v for k, v in os.environ.items() if k != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
        # By default colcon limits make by the machine's load: minutes longer on a busy one.
        environment["MAKEFLAGS"] = f"-j{os.cpu_count()}"
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the robots' interfaces do not build:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        stamp.write_text(key)


if __name__ == "__main__":
    print(environment())
