"""A Franka Panda with three coloured cubes on a table, in MuJoCo, under Cartesian impedance control.

The robot's description (links, inertias, meshes, gripper) is that of the robosuite wheel; only its asset files are
read, robosuite is not imported. The scene is compiled once: a reset sets poses and takes milliseconds. Positions are in
the robot's base frame [m], whose origin is on the table top; orientations are unit quaternions in x y z w order.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from openvla_evaluation.suites.cubes import OBJECTS
from openvla_ros.sim.impedance import CartesianImpedance, ImpedanceGains

Array = NDArray[np.float64]

BASE_FRAME = "panda_link0"
JOINT_NAMES = tuple(f"panda_joint{i}" for i in range(1, 8))
COLOURS = dict(
    zip(OBJECTS, ((0.84, 0.07, 0.09, 1.0), (0.06, 0.58, 0.16, 1.0), (0.05, 0.20, 0.82, 1.0)), strict=True)
)  # RGBA, 0 … 1
FINGER_TRAVEL = 0.04  # [m] each finger, closed to open
HAND_LENGTH = 0.097  # [m] from the flange to the point between the finger tips
# A ready pose with the gripper pointing down: seed of the inverse kinematics and null-space attractor of the arm.
READY = np.array([0.0, 0.1, 0.0, -2.3, 0.0, 2.4, 0.785])
DOWN = Rotation.from_euler("x", np.pi)  # end-effector z axis towards the table, x axis forward


@dataclass(frozen=True)
class CameraConfig:
    """The third-person camera.

    Attributes:
        width: Width of the image [px].
        height: Height of the image [px].
        position: Position, base frame [m].
        look_at: Point in the middle of the image, base frame [m].
        field_of_view: Vertical field of view [deg].
    """

    width: int = 224
    height: int = 224
    position: tuple[float, float, float] = (1.15, 0.20, 0.66)
    look_at: tuple[float, float, float] = (0.47, 0.0, 0.10)
    field_of_view: float = 34.0


@dataclass(frozen=True)
class SceneConfig:
    """Configuration of the scene; everything random is drawn from the seed of `Scene.reset`."""

    camera: CameraConfig = field(default_factory=CameraConfig)
    gains: ImpedanceGains = field(default_factory=ImpedanceGains)
    cube_size: float = 0.04  # [m] edge
    cube_area: tuple[tuple[float, float], tuple[float, float]] = ((0.38, 0.60), (-0.17, 0.17))  # [m] x, y ranges
    cube_separation: float = 0.10  # [m] least distance between cube centres: an open gripper fits between
    cube_yaw: float = 0.3  # [rad] half range
    start_position: tuple[float, float, float] = (0.46, 0.0, 0.22)  # [m]
    start_spread: tuple[float, float, float] = (0.08, 0.12, 0.06)  # [m] half ranges
    start_yaw: float = 0.2  # [rad] half range
    physics_step: float = 0.002  # [s]


class Scene:
    """The simulated robot and its table. Not thread-safe; render from the thread that created it (OpenGL).

    Attributes:
        base_frame: Name of the robot's base frame.
        down: Orientation of the end effector that points at the table, fingers' axis along y.
        expert_settings: Settings of `expert.ExpertConfig` that this robot needs.
        seed: Seed of the newest reset.
    """

    base_frame = BASE_FRAME
    down = DOWN
    expert_settings: ClassVar[dict[str, Any]] = {}

    def __init__(self, config: SceneConfig | None = None) -> None:
        """Compile the scene and reset it with seed 0; `config` None is the default configuration."""
        self.config = config or SceneConfig()
        self._model = _build(self.config)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site("end_effector").id
        self._arm = np.array([self._model.joint(f"joint{i}").qposadr[0] for i in range(1, 8)])
        self._fingers = np.array([self._model.joint(f"gripper_finger_joint{i}").qposadr[0] for i in (1, 2)])
        self._control = CartesianImpedance(self._model, self._site, READY, self.config.gains)
        self._renderer: mujoco.Renderer | None = None
        self._options = mujoco.MjvOption()
        self._options.geomgroup[:] = [0, 1, 1, 0, 0, 0]  # collision hulls are not rendered
        self._options.sitegroup[:] = 0
        self._target = (np.zeros(3), np.array([1.0, 0.0, 0.0, 0.0]))
        self._opening = 1.0
        self.seed = 0
        self.reset(0)

    # ---- world ----------------------------------------------------------------------------------------------

    @property
    def objects(self) -> tuple[str, ...]:
        """Names of the cubes, in a fixed order."""
        return OBJECTS

    @property
    def time(self) -> float:
        """Simulated time [s] since construction; a reset does not change it."""
        return float(self._data.time)

    def reset(self, seed: int) -> None:
        """Put cubes and arm at the start state of `seed`: the arm at rest at its perturbed start pose, gripper open."""
        cfg, data, rng = self.config, self._data, np.random.default_rng(seed)
        now = data.time
        mujoco.mj_resetData(self._model, data)
        data.time = now
        self._place_cubes(rng)
        position = np.asarray(cfg.start_position) + rng.uniform(-1, 1, 3) * np.asarray(cfg.start_spread)
        orientation = Rotation.from_euler("z", rng.uniform(-cfg.start_yaw, cfg.start_yaw)) * DOWN
        data.qpos[self._arm] = READY
        self._control.solve_pose(data, position, orientation, self._arm)
        data.qpos[self._fingers] = (FINGER_TRAVEL, -FINGER_TRAVEL)
        mujoco.mj_forward(self._model, data)
        self.set_target(*self.ee_pose())
        self.set_gripper(1.0)
        self.seed = seed

    def step(self, duration: float) -> None:
        """Advance the physics by `duration` [s], rounded to whole physics steps, towards the present targets."""
        for _ in range(max(1, round(duration / self.config.physics_step))):
            self._control.apply(self._data, *self._target)
            mujoco.mj_step(self._model, self._data)

    # ---- the robot's commands and state ---------------------------------------------------------------------

    def set_target(self, position: Array, quaternion: Array) -> None:
        """Set the end-effector pose that the impedance controller pulls towards.

        Args:
            position: Position (3,) [m], base frame.
            quaternion: Orientation (4,), x y z w.

        Raises:
            ValueError: A value is not finite, or the quaternion has no length.
        """
        position, quaternion = np.asarray(position, float), np.asarray(quaternion, float)
        norm = np.linalg.norm(quaternion)
        shapes = (position.shape, quaternion.shape)
        if shapes != ((3,), (4,)) or not np.isfinite(norm + position.sum()) or norm < 1e-6:
            raise ValueError(f"target {position.tolist()} {quaternion.tolist()} is no pose: give 3 + 4 finite numbers")
        self._target = (position.copy(), quaternion / norm)

    def set_gripper(self, opening: float) -> None:
        """Set the gripper's target opening.

        Args:
            opening: 0 closed … 1 open; clipped to that range.

        Raises:
            ValueError: It is not finite.
        """
        if not np.isfinite(opening):
            raise ValueError(f"gripper opening {opening} is not finite: give a number from 0 to 1")
        self._opening = float(np.clip(opening, 0.0, 1.0))
        # A closed command pulls the fingers past the object's surface, so that the grasp has force.
        self._data.actuator("gripper_gripper_finger_joint1").ctrl[0] = self._opening * FINGER_TRAVEL
        self._data.actuator("gripper_gripper_finger_joint2").ctrl[0] = -self._opening * FINGER_TRAVEL

    def ee_pose(self) -> tuple[Array, Array]:
        """Measured end-effector pose: position (3,) [m], quaternion x y z w (4,), in the base frame."""
        site = self._data.site(self._site)
        return site.xpos.copy(), Rotation.from_matrix(site.xmat.reshape(3, 3)).as_quat()

    @property
    def joint_names(self) -> tuple[str, ...]:
        """Names of the arm's joints, in the order of :meth:`joint_positions`."""
        return JOINT_NAMES

    def joint_positions(self) -> Array:
        """Arm joint positions (7,) [rad]."""
        return self._data.qpos[self._arm].copy()

    def joint_velocities(self) -> Array:
        """Arm joint velocities (7,) [rad/s]."""
        return self._data.qvel[self._arm].copy()

    def gripper_opening(self) -> float:
        """Measured opening, 0 closed … 1 open."""
        left, right = self._data.qpos[self._fingers]
        return float(np.clip((left - right) / (2 * FINGER_TRAVEL), 0.0, 1.0))

    # ---- the camera -----------------------------------------------------------------------------------------

    def render(self) -> NDArray[np.uint8]:
        """The image of the third-person camera: RGB uint8 (height, width, 3), upright."""
        camera = self.config.camera
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, camera.height, camera.width)
        self._cast_shadow()
        self._renderer.update_scene(self._data, "third_person", self._options)
        return self._renderer.render()

    def _cast_shadow(self) -> None:
        """Place the gripper's shadow, of a light straight above, on the table."""
        shadow, hand = self._data.geom("hand_shadow"), self._data.site(self._site)
        shadow.xpos[:] = (*hand.xpos[:2], 0.0)
        shadow.xmat[:] = Rotation.from_euler("z", self._heading(hand.xmat)).as_matrix().reshape(-1)

    def _heading(self, axes: Array) -> float:
        """Angle [rad] about the vertical of a gripper with the axes (9,), row by row; across the fingers' axis."""
        return float(np.arctan2(axes[3], axes[0]))

    def move_camera(self, position: Array, look_at: Array) -> None:
        """Move the third-person camera: position and look-at point in the base frame [m]."""
        self._model.cam_pos[self._model.camera("third_person").id] = position
        orientation = _look_at(np.asarray(position), np.asarray(look_at))
        self._model.cam_quat[self._model.camera("third_person").id] = orientation
        mujoco.mj_forward(self._model, self._data)

    def camera_matrix(self) -> Array:
        """Intrinsics (3, 3) of the pinhole camera [px]."""
        camera = self.config.camera
        focal = camera.height / 2 / np.tan(np.radians(camera.field_of_view) / 2)
        return np.array([[focal, 0, camera.width / 2], [0, focal, camera.height / 2], [0, 0, 1.0]])

    def close(self) -> None:
        """Free the renderer's OpenGL context."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    # ---- privileged state: for the scripted expert and the scorer only ---------------------------------------

    def object_pose(self, name: str) -> tuple[Array, float]:
        """True centre (3,) [m] and yaw [rad] of a cube. A policy must not receive it."""
        joint = self._data.joint(f"cube_{name}")
        rotation = Rotation.from_quat(np.roll(joint.qpos[3:], -1)).as_matrix()
        return joint.qpos[:3].copy(), float(np.arctan2(rotation[1, 0], rotation[0, 0]))

    def _place_cubes(self, rng: np.random.Generator) -> None:
        cfg = self.config
        for name, xy in zip(self.objects, self._draw_cubes(rng), strict=True):
            yaw = rng.uniform(-cfg.cube_yaw, cfg.cube_yaw)
            joint = self._data.joint(f"cube_{name}")
            joint.qpos[:3] = (*xy, cfg.cube_size / 2)
            joint.qpos[3:] = (np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2))

    def _draw_cubes(self, rng: np.random.Generator) -> list[Array]:
        (x0, x1), (y0, y1) = self.config.cube_area
        while True:
            centres = [rng.uniform((x0, y0), (x1, y1)) for _ in self.objects]
            gaps = [np.linalg.norm(a - b) for i, a in enumerate(centres) for b in centres[:i]]
            if min(gaps) >= self.config.cube_separation:
                return centres


def _assets() -> Path:
    found = importlib.util.find_spec("robosuite")
    if found is None or not found.submodule_search_locations:
        raise RuntimeError(
            "the Panda's description is in the robosuite wheel, which is not installed: "
            "pip install --no-deps robosuite==1.4.0"
        )
    return Path(found.submodule_search_locations[0]) / "models" / "assets"


def _build(config: SceneConfig) -> mujoco.MjModel:
    """Compile the world: Panda + hand from the robosuite assets, table, cubes, lights, camera."""
    assets = _assets()
    spec = mujoco.MjSpec.from_file(str(assets / "robots/panda/robot.xml"))
    hand = mujoco.MjSpec.from_file(str(assets / "grippers/panda_gripper.xml"))
    spec.compiler.degree = hand.compiler.degree = False  # robosuite's files are written in radians
    flange = spec.body("right_hand")
    flange.add_frame().attach_body(hand.body("right_gripper"), "gripper_", "")
    flange.add_site(name="end_effector", pos=[0, 0, HAND_LENGTH])
    furnish(spec, config)
    return spec.compile()


def furnish(spec: mujoco.MjSpec, config: SceneConfig) -> None:
    """Add physics settings, table, cubes, lights and camera to the model of an arm."""
    spec.option.timestep = config.physics_step
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10.0  # hold a grasped cube without creep
    spec.visual.global_.offwidth, spec.visual.global_.offheight = config.camera.width, config.camera.height
    spec.visual.quality.offsamples = 0  # anti-aliasing doubles the cost of a frame on a CPU
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.35, 0.35, 0.35]
    spec.visual.headlight.specular = [0.05, 0.05, 0.05]
    world = spec.worldbody
    # Shadow mapping takes four fifths of a frame's time in software rendering. A disc under the gripper does its most
    # important part: it shows a single camera above which point of the table the gripper is (see Scene.render).
    world.add_light(pos=[0.9, -0.4, 1.8], dir=[-0.3, 0.3, -1], castshadow=False, diffuse=[0.4, 0.4, 0.4])
    world.add_geom(
        name="hand_shadow",
        type=mujoco.mjtGeom.mjGEOM_ELLIPSOID,
        size=[0.035, 0.10, 0.0004],
        rgba=[0, 0, 0, 0.4],
        group=2,
        contype=0,
        conaffinity=0,
    )
    world.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[0.55, 0.7, 0.02],
        pos=[0.35, 0, -0.02],
        rgba=[0.80, 0.74, 0.64, 1],
        group=2,
        friction=[1.0, 0.005, 0.0001],
    )
    world.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[3, 3, 0.1],
        pos=[0, 0, -0.75],
        rgba=[0.42, 0.45, 0.50, 1],
        group=2,
    )
    half = config.cube_size / 2
    for name, rgba in COLOURS.items():
        body = world.add_body(name=f"cube_{name}", pos=[0.5, 0, half])
        body.add_freejoint(name=f"cube_{name}")
        body.add_geom(
            name=f"cube_{name}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[half] * 3,
            rgba=list(rgba),
            group=2,
            mass=0.06,
            friction=[1.5, 0.02, 0.0005],
            condim=4,
        )
    camera = config.camera
    world.add_camera(
        name="third_person",
        pos=list(camera.position),
        fovy=camera.field_of_view,
        quat=_look_at(np.asarray(camera.position), np.asarray(camera.look_at)).tolist(),
    )


def _look_at(position: Array, target: Array) -> Array:
    """Quaternion w x y z of a MuJoCo camera (looks along its −z, y up) at `position` that looks at `target`."""
    back = (position - target) / np.linalg.norm(position - target)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    quaternion = Rotation.from_matrix(np.column_stack([right, np.cross(back, right), back])).as_quat()
    return np.roll(quaternion, 1)
