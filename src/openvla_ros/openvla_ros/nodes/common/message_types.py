"""Messages of packages that not every robot needs, imported when it is chosen; the error names what to install."""

from __future__ import annotations

import importlib
import os

_HOW = {
    # (Neither is in rosdistro's jazzy.)
    "franka_msgs": "build github.com/frankarobotics/franka_ros2, branch {distro}, which has no apt package",
    "interbotix_xs_msgs": "build github.com/Interbotix/interbotix_ros_core, branch {distro}, which has no apt package",
    "control_msgs": "apt install ros-{distro}-control-msgs",
    "moveit_msgs": "apt install ros-{distro}-moveit-msgs",
    "tf2_msgs": "apt install ros-{distro}-tf2-msgs",
}


def load(name: str) -> type:
    """The class of `package/msg/Name`, `package/srv/Name` or `package/action/Name`.

    Raises:
        ImportError: the package is not installed or not sourced, with what to do.
    """
    package, folder, kind = name.split("/")
    try:
        found = getattr(importlib.import_module(f"{package}.{folder}"), kind, None)
    except ImportError as error:
        how = _HOW.get(package, f"rosdep install {package}").format(distro=os.environ.get("ROS_DISTRO", "jazzy"))
        raise ImportError(
            f"{name} is needed, but {package} does not import ({error}): {how}; then source it"
        ) from error
    if not isinstance(found, type):
        raise ImportError(f"{package}.{folder} has no {kind}: is its version the one for ROS 2 Jazzy?")
    return found
