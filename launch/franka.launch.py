"""A Franka under franka_ros2: `ros2 launch openvla_ros franka.launch.py` (arguments: `--show-args`).

Start the robot's own driver first, by itself (docs/how-to/first-motion-franka.md). When one process ends, all end.
"""

from openvla_ros.bringup.launch_description import ROBOT, describe

ARGUMENTS = ROBOT  # in addition to launch_description.COMMON


def generate_launch_description():
    return describe("franka", ARGUMENTS)
