"""Any arm by YAML alone: `ros2 launch openvla_ros generic.launch.py config:=my_arm.yaml` (arguments: `--show-args`).

The robot's own driver is started by itself, before (docs/how-to/add-a-robot.md). All end when one ends.
"""

from openvla_ros.nodes.bringup_launch import describe

# Beside those of `bringup_launch.COMMON`: name, default ('' = what config/ says), description, the parameters it sets
ARGUMENTS = [
    ("scale", "", "Factor on the policy's motions; begin with 0.2", [("bridge_node", "scale", float)]),
    ("enable_mode", "", "switch, deadman or joystick", [("bridge_node", "enable.mode", str)]),
]


def generate_launch_description():
    return describe("generic", ARGUMENTS)
