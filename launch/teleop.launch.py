"""A person moves the simulated arm: `ros2 launch openvla_ros teleop.launch.py device:=gamepad` (`--show-args`).

Simulator, bridge, recorder and teleop_node. The keyboard needs a terminal of its own: `device:=none` here, and there
`ros2 run openvla_ros teleop_node --ros-args -p autostart:=true -p use_sim_time:=true`.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from openvla_ros.nodes.bringup_launch import action
from openvla_ros.nodes.bringup_teleop import teleoperation

ARGUMENTS = [
    ("device", "gamepad", "A file of config/teleop (gamepad, spacemouse, leader, guide), a path, or none"),
    ("output", "~/openvla/bags", "Folder for the bags"),
    ("instruction", "", "Sentence of the demonstrations"),
    ("target", "0", "Successes wanted, for the counter"),
    ("control_mode", "", "blocking or streaming; default as config/teleop/sim.yaml says"),
    ("seed", "0", "Seed of the scene"),
]


def processes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    overrides = {"sim_node": {"seed": int(given["seed"])}}
    if given["control_mode"]:
        overrides["bridge_node"] = {"control_mode": given["control_mode"]}
    specs = teleoperation(
        given["device"],
        teleop={"instruction": given["instruction"]},
        recorder={"output": given["output"], "target_episodes": int(given["target"])},
        overrides=overrides,
    )
    return [action(spec) for spec in specs]


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text in ARGUMENTS
            ),
            OpaqueFunction(function=processes),
        ]
    )
