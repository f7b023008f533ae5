"""Emulator of Interbotix' xs_sdk around the simulated WidowX 250s: names and types as in robots/widowx.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from sensor_msgs.msg import JointState

from openvla_ros.nodes.common import conversions
from openvla_ros.nodes.common.lifecycle_node import ManagedNode
from openvla_ros.nodes.common.message_types import load
from openvla_ros.nodes.common.qos import STATE, STREAM
from openvla_ros.nodes.sim.driver import DriverEmulator
from openvla_ros.nodes.sim.parameters import SimParameters
from openvla_ros.robots.arms import WIDOWX_250S
from openvla_ros.sim.scene import CameraConfig, Scene
from openvla_ros.sim.widowx_scene import WidowXScene, WidowXSceneConfig

GROUP, GRIPPER = "arm", "gripper"
DOF = len(WIDOWX_250S.joints)


class XsSdkEmulator(DriverEmulator):
    """A WidowX 250s under xs_sdk, with its default profile of 2 s a move until another one is set."""

    def __init__(self, node: ManagedNode[SimParameters]) -> None:
        super().__init__(node)
        self._joints: np.ndarray | None = None  # requests
        self._pwm: float | None = None
        self._registers = {"Profile_Velocity": 2000, "Profile_Acceleration": 300}  # [ms] interbotix' modes.yaml
        self._mode = {GROUP: "position", GRIPPER: "pwm"}

    def connect(self) -> None:
        """Create the topics and services of xs_sdk."""
        node = self._node
        self._joint_pub = node.publisher(JointState, "joint_states", STREAM)
        group, single = (load(f"interbotix_xs_msgs/msg/Joint{what}Command") for what in ("Group", "Single"))
        node.subscribe(group, "commands/joint_group", self._on_group, STATE)
        node.subscribe(single, "commands/joint_single", self._on_single, STATE)
        node.serve(load("interbotix_xs_msgs/srv/RobotInfo"), "get_robot_info", self._on_info)
        node.serve(load("interbotix_xs_msgs/srv/OperatingModes"), "set_operating_modes", self._on_modes)
        registers = load("interbotix_xs_msgs/srv/RegisterValues")
        node.serve(registers, "get_motor_registers", self._on_get)
        node.serve(registers, "set_motor_registers", self._on_set)

    def drop_requests(self) -> None:
        """Drop the joint targets that were not applied yet; the gripper's PWM stays on, as the motor's would."""
        self._joints = None

    def _on_group(self, message: Any) -> None:
        if message.name != GROUP or len(message.cmd) != DOF or not np.isfinite(message.cmd).all():
            self._refuse(f"refused a command of {len(message.cmd)} values for group '{message.name}'")
            return
        self._joints = np.array(message.cmd, float)

    def _on_single(self, message: Any) -> None:
        if message.name != GRIPPER or not abs(message.cmd) <= 885.0:
            self._refuse(f"refused {message.cmd} for '{message.name}'")
            return
        self._pwm = float(message.cmd)

    def _on_info(self, request: Any, response: Any) -> Any:
        if request.name == GROUP:
            response.joint_names, response.num_joints = list(WIDOWX_250S.names), DOF
            response.profile_type = "time"
        response.name, response.mode = [request.name], self._mode.get(request.name, "")
        return response

    def _on_modes(self, request: Any, response: Any) -> Any:
        if request.name == GROUP:
            self._refuse("the arm's torque was off during the change of its mode: a real arm sags")
            if request.profile_type == "time":
                self._registers["Profile_Velocity"] = int(request.profile_velocity)
                self._registers["Profile_Acceleration"] = int(request.profile_acceleration)
        self._mode[request.name] = request.mode
        return response

    def _on_get(self, request: Any, response: Any) -> Any:
        count = (
            DOF if request.cmd_type == "group" else 1
        )  # the second motors of shoulder and elbow are not in the group
        response.values = [self._registers.get(request.reg, 0)] * count
        return response

    def _on_set(self, request: Any, response: Any) -> Any:
        self._registers[request.reg] = int(request.value)
        return response

    # ---- the physics thread ----------------------------------------------------------------------

    def make_scene(self, camera: CameraConfig) -> Scene:
        """Create the robot and its table."""
        self.scene = WidowXScene(WidowXSceneConfig(camera=camera))
        return self.scene

    def scene_reset(self) -> None:
        """Start again after a reset of the scene, with the gripper's PWM off."""
        self.drop_requests()
        self._pwm = None

    def apply(self, now_ns: int) -> None:
        """Apply the requests, before a step of the physics at `now_ns` [ns]."""
        pwm, self._pwm = self._pwm, None
        if pwm is not None and self._mode[GRIPPER] == "pwm":
            self.scene.set_pwm(pwm)
        joints, self._joints = self._joints, None
        if joints is not None and self._mode[GROUP] == "position":
            self.scene.profile_time = self._registers["Profile_Velocity"] / 1000.0
            self.scene.set_joints(joints)

    def publish(self, now_ns: int) -> None:
        """Publish the joints, measured at `now_ns` [ns]: the motors, then the fingers."""
        scene = self.scene
        positions, velocities = scene.joint_positions(), scene.joint_velocities()
        self._joint_pub.publish(conversions.joint_message(scene.joint_names, positions, velocities, now_ns))
