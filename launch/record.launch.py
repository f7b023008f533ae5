"""The recorder on a robot: `ros2 launch openvla_ros record.launch.py output:=~/bags target:=50` (`--show-args`).

Episodes are started and ended with the keys of `openvla-record`, the buttons of teleop_node, or the two services.
The topic list is the one of the YAML file; `ros2 bag record $(openvla-record --topics)` records the same.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from openvla_ros.nodes.bringup import share_folder

# name, default ('' = what the file says), description, the parameter it sets and its type
ARGUMENTS = [
    ("config", "recorder", "A file of config/recording, or a path", None, str),
    ("namespace", "", "Namespace of the robot's topics", None, str),
    ("use_sim_time", "false", "Take the time from /clock", "use_sim_time", bool),
    ("output", "", "Folder for the bags", "output", str),
    ("target", "", "Successes wanted, for the counter", "target_episodes", int),
    ("compression", "", "zstd or none", "compression", str),
    ("write", "", "false: only mark episodes, for a bag that `ros2 bag record` writes", "write", bool),
]


def processes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    shipped = share_folder() / "config" / "recording" / f"{given['config']}.yaml"
    parameters = {"autostart": True}
    for name, _, _, parameter, kind in ARGUMENTS:
        if parameter and given[name]:
            parameters[parameter] = given[name].lower() in ("true", "1") if kind is bool else kind(given[name])
    yield Node(
        package="openvla_ros",
        executable="recorder_node",
        name="recorder_node",
        namespace=given["namespace"],
        parameters=[str(shipped) if shipped.is_file() else given["config"], parameters],
        output="screen",
    )


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text, *_ in ARGUMENTS
            ),
            OpaqueFunction(function=lambda context: list(processes(context))),
        ]
    )
