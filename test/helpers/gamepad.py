"""A simulated operator with a gamepad, who sees the arm and the cubes, moves sticks and presses buttons.

What an operator sees comes from robot/ee_pose and the scene's seed; the stack receives only `joy`, as from joy_node
with a pad of the Xbox layout (config/teleop/gamepad.yaml).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseStamped
from openvla_msgs.msg import RecorderStatus, SafetyState
from rclpy.executors import SingleThreadedExecutor
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState, Joy

from openvla_ros.nodes.common.qos import LATCHED, SENSOR
from openvla_ros.sim.scene import DOWN

LB, RB, Y, A, B = 4, 5, 3, 0, 1
X_AXIS, Y_AXIS, Z_AXIS, YAW_AXIS = 1, 0, 4, 3
AXES, BUTTONS = 8, 11
REPEAT = 0.04  # [s] as joy_node repeats its state
DEAD_ZONE, CURVE, LINEAR, ANGULAR = 0.12, 1.7, 0.1, 0.5  # config/teleop/gamepad.yaml
GAIN = 1.5  # [1/s] commanded speed for an error
ABOVE = 0.08  # [m] above a cube's centre: height of travel and of lifting


class Pad:
    """A gamepad that repeats its state while its node is spun, as joy_node does."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._publisher = node.create_publisher(Joy, "joy", 10)
        self._timer = node.create_timer(REPEAT, self._repeat)
        self._axes, self._buttons = [0.0] * AXES, frozenset[int]()
        self.speaking = True

    def hold(self, *buttons: int, axes: dict[int, float] | None = None) -> None:
        """Hold buttons down and sticks deflected; release all others."""
        self._buttons = frozenset(buttons)
        self._axes = [float((axes or {}).get(i, 0.0)) for i in range(AXES)]

    def _repeat(self) -> None:
        if self.speaking:
            message = Joy(axes=self._axes, buttons=[int(i in self._buttons) for i in range(BUTTONS)])
            message.header.stamp = self._node.get_clock().now().to_msg()
            self._publisher.publish(message)


class Gamepad:
    """The pad and its operator, in ROS domain `domain`; a context manager."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self.node = node = rclpy.create_node("gamepad", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._pad = Pad(node)
        self.pose: PoseStamped | None = None
        self.opening = float("nan")
        self.recorder, self.safety = RecorderStatus(), SafetyState()
        node.create_subscription(PoseStamped, "robot/ee_pose", lambda m: setattr(self, "pose", m), SENSOR)
        node.create_subscription(JointState, "gripper/state", lambda m: setattr(self, "opening", m.position[0]), SENSOR)
        node.create_subscription(RecorderStatus, "recorder/status", lambda m: setattr(self, "recorder", m), LATCHED)
        node.create_subscription(SafetyState, "safety/state", lambda m: setattr(self, "safety", m), LATCHED)

    def __enter__(self) -> Gamepad:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(timeout_sec=1.0)
        self.node.destroy_node()
        self._context.try_shutdown()

    # ---- what the operator sees ------------------------------------------------------------------

    def position(self) -> np.ndarray:
        """Position of the finger tips [m], base frame."""
        assert self.pose is not None
        p = self.pose.pose.position
        return np.array([p.x, p.y, p.z])

    def yaw(self) -> float:
        """Angle of the gripper about the vertical [rad]; 0 at the start of a scene."""
        assert self.pose is not None
        q = self.pose.pose.orientation
        x_axis = (Rotation.from_quat([q.x, q.y, q.z, q.w]) * DOWN.inv()).as_matrix()[:, 0]
        return float(np.arctan2(x_axis[1], x_axis[0]))

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> None:
        """Hold the pad as it is until `condition`.

        Raises:
            TimeoutError: The condition is not met in time; with the state of gate and recorder.
        """
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                state = f"gate: {self.safety.state} {self.safety.reason!r}; recorder: {self.recorder.state!r}"
                raise TimeoutError(f"waited {seconds:g} s for {what}; {state} {self.recorder.reason!r}")
            self._executor.spin_once(timeout_sec=0.02)

    def pause(self, seconds: float) -> None:
        """Hold the pad as it is for a while."""
        end = time.monotonic() + seconds
        self.wait(lambda: time.monotonic() > end, seconds + 5.0, "the pause to end")

    def wait_ready(self) -> None:
        """Wait for arm, gate and recorder, without touching the pad."""
        self.wait(lambda: self.pose is not None and self.opening == self.opening, 90.0, "the robot's state")
        self.wait(lambda: self.recorder.state == "idle" and not self.recorder.missing, 60.0, "the recorder")
        self.wait(lambda: self.node.count_subscribers("joy") > 0, 60.0, "teleop_node")
        self.wait(lambda: self.safety.state == SafetyState.READY, 60.0, "the gate to be READY")
        self.pause(0.5)

    # ---- what the operator does ------------------------------------------------------------------

    def hold(self, *buttons: int, **sticks: float) -> None:
        """Hold buttons, and deflect the sticks for speeds x y z [m/s], yaw [rad/s]; release all others."""
        axes = {}
        for name, axis in (("x", X_AXIS), ("y", Y_AXIS), ("z", Z_AXIS), ("yaw", YAW_AXIS)):
            share = np.clip(sticks.get(name, 0.0) / (ANGULAR if name == "yaw" else LINEAR), -1.0, 1.0)
            if abs(share) > 0.01:
                deflection = DEAD_ZONE + abs(share) ** (1.0 / CURVE) * (1.0 - DEAD_ZONE)
                axes[axis] = float(np.copysign(deflection, share))
        self._pad.hold(*buttons, axes=axes)

    def press(self, button: int, *held: int, until: Callable[[], Any], seconds: float, what: str) -> None:
        """Press until the effect is seen, while `held` stay down."""

        def down() -> None:
            self.hold(*held)
            self.pause(0.15)
            self.hold(*held, button)

        down()
        self.wait(self._following(until, down) if LB in held else until, seconds, what)
        self.hold(*held)

    def _following(self, condition: Callable[[], Any], again: Callable[[], None] = lambda: None) -> Callable[[], Any]:
        """`condition`; where the arm does not follow for long, release everything and hold it again, as operators do.

        A test process that is blocked is a silent pad: the deadman counts again only after a release.
        """
        followed = time.monotonic()

        def look() -> Any:
            nonlocal followed
            if self.safety.state != SafetyState.HOLD:
                followed = time.monotonic()
            elif time.monotonic() > followed + 2.0:
                self.hold()
                self.pause(0.5)
                again()
                followed = time.monotonic()
            return condition()

        return look

    def move(self, to: np.ndarray, yaw: float | None = None, *, near: float = 0.006, seconds: float = 60.0) -> None:
        """Hold LB and steer until the finger tips are at `to` [m] (and the gripper at `yaw` [rad])."""

        def steer() -> bool:
            error = to - self.position()
            turn = 0.0 if yaw is None else _quarter(yaw - self.yaw())
            x, y, z = GAIN * error
            self.hold(LB, x=x, y=y, z=z, yaw=GAIN * turn)
            return bool(np.linalg.norm(error) < near and abs(turn) < 0.05)

        self.wait(self._following(steer), seconds, f"the arm to reach {np.round(to, 3).tolist()}")
        self.hold(LB)

    def lift(self, cube: np.ndarray, yaw: float) -> None:
        """Lift the cube whose centre is at `cube` [m], rotated by `yaw` [rad]; LB stays held."""
        self.hold(LB)
        self.move(cube + [0.0, 0.0, ABOVE], yaw, near=0.01)
        self.move(cube, yaw)
        self.press(RB, LB, until=lambda: self.opening < 0.75, seconds=20.0, what="the gripper to close")
        self.pause(0.3)
        self.move(cube + [0.0, 0.0, ABOVE], near=0.02)

    def put_down(self, at: np.ndarray) -> None:
        """Put the cube down at `at` [m], go up, and release everything."""
        self.hold(LB)
        self.move(at + [0.0, 0.0, ABOVE], near=0.01)
        self.move(at + [0.0, 0.0, 0.004])
        self.press(RB, LB, until=lambda: self.opening > 0.9, seconds=20.0, what="the gripper to open")
        self.move(at + [0.0, 0.0, 1.5 * ABOVE], near=0.02)
        self.hold()

    # ---- episodes --------------------------------------------------------------------------------

    def start_episode(self) -> None:
        """Press Y; wait until the recorder records."""
        self.press(Y, until=lambda: self.recorder.state == "recording", seconds=30.0, what="the episode to begin")

    def end_episode(self, button: int) -> None:
        """Press A (success) or B (failure); wait until the bag is closed."""
        before = self.recorder.success + self.recorder.failure
        self.press(
            button, until=lambda: self.recorder.success + self.recorder.failure == before + 1, seconds=30.0,
            what="the episode to end",
        )  # fmt: skip


def _quarter(angle: float) -> float:
    """The nearest turn that puts the fingers along faces of a cube: within ±π/4."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)
