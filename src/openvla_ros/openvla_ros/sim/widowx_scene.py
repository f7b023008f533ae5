"""The WidowX 250s at the table with cubes, commanded like its motors: goals with a time profile, and a PWM gripper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.geometry import Pose
from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_FINGER, WIDOWX_READY
from openvla_ros.robots.kinematics import Kinematics
from openvla_ros.sim.scene import Array, CameraConfig, Scene, SceneConfig, furnish
from openvla_ros.sim.widowx_model import FINGER_FORCE, build

DOF = len(WIDOWX_250S.joints)


@dataclass(frozen=True)
class WidowXSceneConfig(SceneConfig):
    """Smaller and nearer cubes, for the gripper's opening and the arm's reach."""

    camera: CameraConfig = field(
        default_factory=lambda: CameraConfig(position=(0.85, 0.2, 0.55), look_at=(0.27, 0.0, 0.08))
    )
    cube_size: float = 0.026
    cube_area: tuple[tuple[float, float], tuple[float, float]] = ((0.22, 0.36), (-0.12, 0.12))
    start_position: tuple[float, float, float] = (0.27, 0.0, 0.17)
    start_spread: tuple[float, float, float] = (0.04, 0.08, 0.03)


class Profile:
    """Set-points of the motors' controllers on the way to a goal, which is reached in a given time.

    A cubic polynomial from the present position and speed to rest at the goal. Like the motors' own trapezoid it is
    continuous in speed, and a new goal starts it again from the present state.

    Attributes:
        positions: Present set-points [rad].
    """

    def __init__(self, positions: Array, speed: float) -> None:
        """Start at rest at `positions` [rad]; the set-points' speed is at most `speed` [rad/s]."""
        self.positions, self._velocities = positions.copy(), np.zeros_like(positions)
        self._goal, self._left, self._speed = positions.copy(), 0.0, speed

    def go(self, goal: Array, duration: float) -> None:
        """Set a new goal [rad], reached in `duration` [s]."""
        self._goal, self._left = goal.copy(), max(duration, 1e-3)

    def step(self, dt: float) -> None:
        """Advance by `dt` [s]."""
        if self._left <= 0.0:
            return
        far, t = self._goal - self.positions, self._left
        a = 6.0 * far / t**2 - 4.0 * self._velocities / t  # of the cubic, now
        if self._left <= dt:
            self.positions, self._velocities = self._goal.copy(), np.zeros_like(far)
        else:
            self._velocities = np.clip(self._velocities + a * dt, -self._speed, self._speed)
            self.positions = self.positions + self._velocities * dt
        self._left -= dt


class WidowXScene(Scene):
    """`Scene` with a WidowX, commanded by joint goals and the gripper's PWM, not by poses.

    Attributes:
        profile_time: Time in which a new goal is reached [s].
    """

    base_frame = "wx250s/base_link"
    down = Rotation.from_euler("y", np.pi / 2)  # the end effector's x axis points at the table
    expert_settings: ClassVar[dict[str, Any]] = {
        "max_step": 0.05, "clearance": 0.06, "grasp_height": 0.004, "aligned": 0.008, "at_height": 0.014,
        "wander_low": (0.20, -0.10, 0.07), "wander_high": (0.34, 0.10, 0.2),
    }  # fmt: skip

    def __init__(self, config: SceneConfig | None = None) -> None:
        """Compile the scene and reset it with seed 0; `config` None is `WidowXSceneConfig()`."""
        self.config = config or WidowXSceneConfig()
        spec = build()
        furnish(spec, self.config)
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("end_effector").id
        self._arm = np.array([self._model.joint(name).qposadr[0] for name in WIDOWX_250S.names])
        self._fingers = np.array([self._model.joint(name).qposadr[0] for name in ("left_finger", "right_finger")])
        self._kinematics = Kinematics(WIDOWX_250S)
        self._renderer: mujoco.Renderer | None = None
        self._options = mujoco.MjvOption()
        self._options.sitegroup[:] = 0
        self.profile_time = 2.0  # [s] xs_sdk's default
        self.seed = 0
        self.reset(0)

    def reset(self, seed: int) -> None:
        """Put cubes and arm at the start state of `seed`: the arm at rest at its perturbed start pose, gripper open."""
        cfg, data, rng = self.config, self._data, np.random.default_rng(seed)
        now = data.time
        mujoco.mj_resetData(self._model, data)
        data.time = now
        self._place_cubes(rng)
        position = np.asarray(cfg.start_position) + rng.uniform(-1, 1, 3) * np.asarray(cfg.start_spread)
        orientation = Rotation.from_euler("z", rng.uniform(-cfg.start_yaw, cfg.start_yaw)) * self.down
        found = self._kinematics.solve(Pose.of(position, orientation.as_quat()), WIDOWX_READY, 200)
        if found.distance > 1e-3 or found.angle > 1e-2:
            raise ValueError(f"no joint positions reach the start pose {position.tolist()}")
        data.qpos[self._arm] = found.positions
        data.qpos[self._fingers] = WIDOWX_FINGER[1]
        self._profile = Profile(np.array(found.positions), min(joint.speed for joint in WIDOWX_250S.joints))
        self._pwm = 0.0
        mujoco.mj_forward(self._model, data)
        self.seed = seed

    def step(self, duration: float) -> None:
        """Advance the physics by `duration` [s], rounded to whole physics steps."""
        dt = self.config.physics_step
        for _ in range(max(1, round(duration / dt))):
            self._profile.step(dt)
            self._data.ctrl[:DOF] = self._profile.positions
            self._data.ctrl[DOF : DOF + 2] = FINGER_FORCE * self._pwm / 250.0
            mujoco.mj_step(self._model, self._data)

    def set_joints(self, positions: Array) -> None:
        """Set goals of the arm's motors.

        Args:
            positions: Goals (6,) [rad], reached in `profile_time`.

        Raises:
            ValueError: They are not six finite numbers.
        """
        positions = np.asarray(positions, float)
        if positions.shape != (DOF,) or not np.isfinite(positions).all():
            raise ValueError(f"joint goals {positions.tolist()} are not {DOF} finite numbers")
        self._profile.go(positions, self.profile_time)

    def set_pwm(self, pwm: float) -> None:
        """Set the gripper's PWM.

        Args:
            pwm: −885 … 885; positive opens.

        Raises:
            ValueError: It is out of range.
        """
        if not abs(pwm) <= 885.0:
            raise ValueError(f"gripper PWM {pwm} is not -885 … 885")
        self._pwm = float(pwm)

    def set_target(self, position: Array, quaternion: Array) -> None:
        """Not available: this arm is commanded by joint goals."""
        raise TypeError("the WidowX is commanded by joint goals, not poses: use set_joints")

    def set_gripper(self, opening: float) -> None:
        """Not available: this gripper is commanded by a PWM."""
        raise TypeError("the WidowX's gripper is commanded by a PWM, not an opening: use set_pwm")

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the motors' joints, then the fingers', in the order of xs_sdk."""
        return (*WIDOWX_250S.names, "gripper", "left_finger", "right_finger")

    def _heading(self, axes: Array) -> float:
        return float(np.arctan2(-axes[1], axes[4]))  # from the y axis: x points down

    def joint_positions(self) -> Array:
        """Positions (9,): the arm [rad], the gripper's motor [rad], the fingers [m; the right one negative]."""
        left = float(self._data.qpos[self._fingers[0]])
        return np.array([*self._data.qpos[self._arm], (left - WIDOWX_FINGER[0]) * 60.0, left, -left])

    def joint_velocities(self) -> Array:
        """Velocities (9,), in the same order."""
        left = float(self._data.joint("left_finger").qvel[0])
        return np.array([*(self._data.joint(n).qvel[0] for n in WIDOWX_250S.names), left * 60.0, left, -left])

    def gripper_opening(self) -> float:
        """Measured opening, 0 closed … 1 open."""
        closed, opened = WIDOWX_FINGER
        return float(np.clip((self._data.qpos[self._fingers[0]] - closed) / (opened - closed), 0.0, 1.0))
