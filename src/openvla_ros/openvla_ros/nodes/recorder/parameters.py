"""The recorder's parameters."""

from __future__ import annotations

from openvla_ros.parameters import Parameter as P
from openvla_ros.recording.bag_writer import COMPRESSIONS

TOPICS = [
    "camera/image_raw",
    "camera/image_raw/compressed",
    "camera/camera_info",
    "instruction",
    "policy/action_chunk",
    "policy/status",
    "robot/ee_pose",
    "joint_states",
    "gripper/state",
    "gripper/command",
    "robot/target_pose",
    "e_stop",
    "safety/state",
    "expert/action_chunk",
    "sim/score",
    "/diagnostics",
    "/tf_static",
]

PARAMETERS = (
    P("output", "~/openvla/bags", "Folder for the bags, one folder each"),
    P("topics", TOPICS, "Topics to record, where they exist"),
    P(
        "required_topics",
        ["camera/image_raw", "robot/ee_pose", "gripper/state"],
        "Topics that must have a publisher before an episode can start",
    ),
    P("write", True, "false: only mark the episodes on the topic `episode`, for a bag that `ros2 bag record` writes"),
    P("parameters", True, "Record the parameters of every node"),
    P("compression", "zstd", "Compression of the bag's chunks", choices=COMPRESSIONS),
    P("depth", 200, "Messages a topic may queue before this node takes them", low=1, high=1000),
    P("min_free_gib", 2.0, "An episode ends when the disk has less left", "GiB", 0.0, 1e6, live=True),
    P("target_episodes", 0, "Successes wanted in this session, for the counter; 0 = none", low=0, high=1e6, live=True),
)
