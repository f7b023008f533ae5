"""Message, service and action classes by name, imported when needed; an error says what to install."""

from __future__ import annotations

import importlib
import os

_INSTALLATION = {
    # The first two have no release in rosdistro for Jazzy.
    "franka_msgs": "build github.com/frankarobotics/franka_ros2, branch {distro}, which has no apt package",
    "interbotix_xs_msgs": "build github.com/Interbotix/interbotix_ros_core, branch {distro}, which has no apt package",
    "control_msgs": "apt install ros-{distro}-control-msgs",
    "moveit_msgs": "apt install ros-{distro}-moveit-msgs",
    "tf2_msgs": "apt install ros-{distro}-tf2-msgs",
}


def load(name: str) -> type:
    """The class of `package/msg/Name`, `package/srv/Name` or `package/action/Name`.

    Args:
        name: Full name of the type.

    Returns:
        The class.

    Raises:
        ImportError: The package is not installed or not sourced; says what to do.
    """
    package, folder, kind = name.split("/")
    try:
        found = getattr(importlib.import_module(f"{package}.{folder}"), kind, None)
    except ImportError as error:
        how = _INSTALLATION.get(package, f"rosdep install {package}").format(
            distro=os.environ.get("ROS_DISTRO", "jazzy")
        )
        raise ImportError(
            f"{name} is needed, but {package} does not import ({error}): {how}; then source it"
        ) from error
    if not isinstance(found, type):
        raise ImportError(f"{package}.{folder} has no {kind}: is its version the one for ROS 2 Jazzy?")
    return found
