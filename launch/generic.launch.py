"""Any arm by YAML alone: `ros2 launch openvla_ros generic.launch.py config:=my_arm.yaml` (arguments: `--show-args`).

The robot's own driver is started by itself, before (docs/how-to/add-a-robot.md). All end when one ends.
"""

from openvla_ros.bringup.launch_description import ROBOT, describe

ARGUMENTS = ROBOT  # beside those of `bringup_launch.COMMON`


def generate_launch_description():
    return describe("generic", ARGUMENTS)
