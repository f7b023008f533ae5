"""The simulated bench: `ros2 launch openvla_ros sim.launch.py` (arguments: `--show-args`).

Starts exactly the processes of `openvla_ros.nodes.bringup`, as `make demo` does. Ends all of them when one ends.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, OpaqueFunction
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from openvla_ros.nodes.bringup import bringup

# name, default ('' = what config/ says), description, the parameters it sets: (node, parameter, type)
ARGUMENTS = [
    ("namespace", "", "Namespace of all topics and nodes", []),
    ("policy", "true", "Start the policy node (false: scripted expert or teleoperation)", []),
    ("checkpoint", "", "Checkpoint folder of the policy", [("policy_node", "checkpoint", str)]),
    ("unnorm_key", "", "Dataset whose statistics un-normalise the actions", [("policy_node", "unnorm_key", str)]),
    ("instruction", "", "Instruction to begin with", [("policy_node", "instruction", str)]),
    (
        "control_mode",
        "",
        "blocking or streaming",
        [("policy_node", "control_mode", str), ("bridge_node", "control_mode", str)],
    ),
    ("seed", "", "Seed of the first scene", [("sim_node", "seed", int)]),
    ("real_time_factor", "", "Simulated seconds per wall second", [("sim_node", "real_time_factor", float)]),
    ("expert_role", "", "off, label or act", [("sim_node", "expert.role", str)]),
    ("expert_target", "", "Object that the expert goes for", [("sim_node", "expert.target", str)]),
]


def processes(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, *_ in ARGUMENTS}
    policy = given["policy"].lower() in ("true", "1", "yes")
    overrides = {}
    for name, _, _, targets in ARGUMENTS:
        for node, parameter, kind in targets:
            if given[name] and (policy or node != "policy_node"):
                overrides.setdefault(node, {})[parameter] = kind(given[name])
    for spec in bringup("sim", overrides, policy=policy, namespace=given["namespace"]):
        yield Node(
            package="openvla_ros",
            executable=spec.executable,
            name=spec.name,
            namespace=spec.namespace,
            parameters=[*(str(file) for file in spec.params_files), dict(spec.parameters)],
            remappings=list(spec.remappings),
            arguments=list(spec.arguments),
            output="screen",
            on_exit=[EmitEvent(event=Shutdown(reason=f"{spec.name} ended"))],
        )


def generate_launch_description():
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=text)
                for name, default, text, _ in ARGUMENTS
            ),
            OpaqueFunction(function=lambda context: list(processes(context))),
        ]
    )
