"""The simulator's parameters."""

from __future__ import annotations

from openvla_evaluation.suites.cubes import OBJECTS
from openvla_ros.parameters import Parameter as P
from openvla_ros.sim.scene import CameraConfig

_CAMERA = CameraConfig()

PARAMETERS = (
    P("face", "sim", "What its robot looks like: sim (the stack's own topics), franka (franka_ros2), widowx (xs_sdk)",
      choices=("sim", "franka", "widowx")),
    P("real_time_factor", 1.0, "Simulated seconds per wall second, when the machine keeps up", "1", 0.01, 100.0),
    P("publish_clock", True, "Publish /clock and stamp with simulated time; false stamps with the wall's time"),
    P("clock_rate", 100.0, "Rate of /clock and of taking commands, in simulated time", "Hz", 10.0, 500.0),
    P("state_rate", 50.0, "Rate of ee_pose, joint_states and gripper/state, in simulated time", "Hz", 1.0, 500.0),
    P("seed", 0, "Seed of the scene before the first reset", low=0),
    P("max_target_jump", 0.05, "A target farther than this from the one before is not followed", "m", 1e-3, 10.0),
    P("max_target_turn", 0.35, "A target turned more than this from the one before is not followed", "rad", 1e-2, 4.0),
    P("camera.rate", 10.0, "Rate of the camera, in simulated time", "Hz", 0.1, 60.0),
    P("camera.on_ready", True, "Take a picture also as soon as the bridge is READY (a triggered camera)"),
    P("camera.width", _CAMERA.width, "Picture width", "px", 16, 1920),
    P("camera.height", _CAMERA.height, "Picture height", "px", 16, 1080),
    P("camera.position", list(_CAMERA.position), "Where it is, base frame", "m", -5.0, 5.0, length=3, live=True),
    P("camera.look_at", list(_CAMERA.look_at), "What it looks at, base frame", "m", -5.0, 5.0, length=3, live=True),
    P("camera.field_of_view", _CAMERA.field_of_view, "Vertical field of view", "deg", 5.0, 120.0),
    P("camera.frame", "camera_optical_frame", "frame_id of the pictures"),
    P("camera.mode", "normal", "normal; black: dark pictures; frozen: the same picture over and over (fault tests)",
      choices=("normal", "black", "frozen"), live=True),
    P("camera.jpeg_quality", 95, "Quality of the compressed pictures", "%", 10, 100),
    P("expert.role", "off", "off; label: says what it would do for every picture; act: commands the robot",
      choices=("off", "label", "act")),
    P("expert.control", "blocking", "blocking: an action for each READY of the bridge; streaming: one a period",
      choices=("blocking", "streaming")),
    P("expert.label_all", False, "Label every picture for every cube, each with its own sentence, not only the target"),
    P("expert.target", "", "Object of the scene before the first reset; '' = none", choices=("", *OBJECTS)),
    P("expert.max_steps", 60, "Actions after which the acting expert gives up; 0 = never", low=0, high=100000),
    P("expert.period", 0.2, "Time an action of the expert should take", "s", 0.02, 5.0),
    P("expert.noise.translation", 0.0, "Standard deviation of the noise on an acted translation, each axis",
      "m", 0.0, 0.2, live=True),
    P("expert.noise.rotation", 0.0, "Standard deviation of the noise on an acted yaw", "rad", 0.0, 1.0, live=True),
    P("expert.noise.probability", 1.0, "Share of the acted actions that get noise", "1", 0.0, 1.0, live=True),
    P("expert.wander", 0, "An acting expert begins with up to this many random motions, labelled like all others",
      low=0, high=100),
    P("expert.noise.seed", 0, "With the scene's seed, the seed of the noise", low=0),
)  # fmt: skip
