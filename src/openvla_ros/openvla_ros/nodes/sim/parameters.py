"""Parameters of the simulator node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from openvla_evaluation.suites.cubes import OBJECTS
from openvla_ros.parameters import ManagedNodeParameters, parameter
from openvla_ros.sim.scene import CameraConfig


@dataclass(frozen=True)
class CameraParameters:
    """The camera: `camera.*`."""

    rate: float = parameter(10.0, "Rate of the camera, in simulated time", "Hz", 0.1, 60.0)
    on_ready: bool = parameter(True, "Take an image also as soon as the bridge is READY (a triggered camera)")
    width: int = parameter(CameraConfig.width, "Width of the images", "px", 16, 1920)
    height: int = parameter(CameraConfig.height, "Height of the images", "px", 16, 1080)
    position: tuple[float, float, float] = parameter(
        CameraConfig.position, "Position of the camera, base frame", "m", -5.0, 5.0, length=3, live=True
    )
    look_at: tuple[float, float, float] = parameter(
        CameraConfig.look_at, "Point in the middle of the image, base frame", "m", -5.0, 5.0, length=3, live=True
    )
    field_of_view: float = parameter(CameraConfig.field_of_view, "Vertical field of view", "deg", 5.0, 120.0)
    frame: str = parameter("camera_optical_frame", "frame_id of the images")
    mode: str = parameter(
        "normal",
        "normal; black: dark images; frozen: the same image over and over (fault tests)",
        choices=("normal", "black", "frozen"),
        live=True,
    )
    jpeg_quality: int = parameter(95, "Quality of the compressed images", "%", 10, 100)


@dataclass(frozen=True)
class NoiseParameters:
    """Noise on the expert's commands: `expert.noise.*`."""

    translation: float = parameter(
        0.0, "Standard deviation of the noise on a commanded translation, each axis", "m", 0.0, 0.2, live=True
    )
    rotation: float = parameter(0.0, "Standard deviation of the noise on a commanded yaw", "rad", 0.0, 1.0, live=True)
    probability: float = parameter(1.0, "Share of the commanded actions that get noise", "1", 0.0, 1.0, live=True)
    seed: int = parameter(0, "With the scene's seed, the seed of the noise", low=0)


@dataclass(frozen=True)
class ExpertParameters:
    """The scripted expert: `expert.*`."""

    role: str = parameter(
        "off",
        "off; label: publishes what it would do for every image; act: commands the robot",
        choices=("off", "label", "act"),
    )
    control: str = parameter(
        "blocking",
        "blocking: an action for each READY of the bridge; streaming: one a period",
        choices=("blocking", "streaming"),
    )
    label_all: bool = parameter(
        False, "Label every image for every cube, each with its own instruction, not only for the target"
    )
    target: str = parameter("", "Object of the scene before the first reset; '' = none", choices=("", *OBJECTS))
    max_steps: int = parameter(60, "Actions after which the acting expert gives up; 0 = never", low=0, high=100000)
    period: float = parameter(0.2, "Time an action of the expert should take", "s", 0.02, 5.0)
    noise: NoiseParameters = field(default_factory=NoiseParameters)
    wander: int = parameter(
        0, "An acting expert begins with up to this many random motions, labelled like all others", low=0, high=100
    )


@dataclass(frozen=True)
class SimParameters(ManagedNodeParameters):
    """Parameters of the simulator node."""

    node: ClassVar[str] = "sim_node"

    driver: str = parameter(
        "sim",
        "Driver that the robot emulates: sim (the stack's own topics), franka (franka_ros2), widowx (xs_sdk)",
        choices=("sim", "franka", "widowx"),
        name="face",
    )
    real_time_factor: float = parameter(
        1.0, "Simulated seconds per wall second, when the machine keeps up", "1", 0.01, 100.0
    )
    publish_clock: bool = parameter(
        True, "Publish /clock and stamp with simulated time; false stamps with the wall clock"
    )
    clock_rate: float = parameter(
        100.0, "Rate of /clock and of applying commands, in simulated time", "Hz", 10.0, 500.0
    )
    state_rate: float = parameter(
        50.0, "Rate of ee_pose, joint_states and gripper/state, in simulated time", "Hz", 1.0, 500.0
    )
    seed: int = parameter(0, "Seed of the scene before the first reset", low=0)
    max_target_jump: float = parameter(
        0.05, "A target farther than this from the one before is not followed", "m", 1e-3, 10.0
    )
    max_target_turn: float = parameter(
        0.35, "A target turned more than this from the one before is not followed", "rad", 1e-2, 4.0
    )
    camera: CameraParameters = field(default_factory=CameraParameters)
    expert: ExpertParameters = field(default_factory=ExpertParameters)
