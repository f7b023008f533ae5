"""Parameters of the recorder node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from openvla_ros.parameters import ManagedNodeParameters, parameter
from openvla_ros.recording.bag_writer import COMPRESSIONS

TOPICS = (
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
)


@dataclass(frozen=True)
class RecorderParameters(ManagedNodeParameters):
    """Parameters of the recorder node."""

    node: ClassVar[str] = "recorder_node"

    output: str = parameter("~/openvla/bags", "Folder of the bags, which are one folder each")
    topics: tuple[str, ...] = parameter(TOPICS, "Topics to record, where they exist")
    required_topics: tuple[str, ...] = parameter(
        ("camera/image_raw", "robot/ee_pose", "gripper/state"),
        "Topics that must have a publisher before an episode can start",
    )
    write: bool = parameter(
        True, "false: only mark the episodes on the topic `episode`, for a bag that `ros2 bag record` writes"
    )
    parameters: bool = parameter(True, "Record the parameters of every node")
    compression: str = parameter("zstd", "Compression of the bag's chunks", choices=COMPRESSIONS)
    depth: int = parameter(200, "Messages a topic may queue before this node processes them", low=1, high=1000)
    min_free_gib: float = parameter(2.0, "An episode ends when the disk has less left", "GiB", 0.0, 1e6, live=True)
    target_episodes: int = parameter(
        0, "Successes wanted in this session, for the counter; 0 = none", low=0, high=1e6, live=True
    )
