"""A WidowX 250s under xs_sdk: `ros2 launch openvla_ros widowx.launch.py` (arguments: `--show-args`).

Start the robot's own driver first, by itself (docs/how-to/first-motion-widowx.md). When one process ends, all end.
"""

from openvla_ros.bringup.launch_description import ROBOT, describe

ARGUMENTS = ROBOT  # in addition to launch_description.COMMON


def generate_launch_description():
    return describe("widowx", ARGUMENTS)
