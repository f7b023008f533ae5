"""A Franka under franka_ros2: `ros2 launch openvla_ros franka.launch.py` (arguments: `--show-args`).

The robot's own driver is started by itself, before (docs/how-to/first-motion-franka.md). All end when one ends.
"""

from openvla_ros.bringup.launch_description import ROBOT, describe

ARGUMENTS = ROBOT  # beside those of `bringup_launch.COMMON`


def generate_launch_description():
    return describe("franka", ARGUMENTS)
