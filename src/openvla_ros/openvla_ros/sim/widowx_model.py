"""A WidowX 250s in primitive shapes: its published kinematics, joint ranges and torques; its motors as position servos.

No package registry has its meshes. Lengths and limits are those of `arms.WIDOWX_250S`; masses those published in
wx250s.urdf.xacro (Interbotix/interbotix_ros_manipulators), rounded. The finger pads are this model's: they meet at the
closed end of the fingers' published travel, so that the gripper opens to 44 mm.
"""

from __future__ import annotations

import mujoco
import numpy as np

from openvla_ros.robots.arms import WIDOWX_250S, WIDOWX_FINGER
from openvla_ros.robots.kinematics import skeleton

MASSES = (0.48, 0.43, 0.23, 0.22, 0.085, 0.11)  # [kg] of the body behind each joint
STIFFNESS = (90.0, 180.0, 120.0, 30.0, 40.0, 20.0)  # [N m/rad] of the motors' position loops
GREY, DARK = [0.25, 0.25, 0.27, 1.0], [0.12, 0.12, 0.13, 1.0]
PAD = 0.004  # [m] half the thickness of a finger
TIP = 0.010  # [m] the fingers reach beyond the end effector's frame
FINGER_FORCE = 10.0  # [N] on each finger at a PWM of 250
FINGER_SPEED = 0.05  # [m/s] of each finger at that force


def build() -> mujoco.MjSpec:
    """The arm alone: actuators named like the joints, two fingers that move as one, the site end_effector."""
    spec = skeleton(WIDOWX_250S)
    joints = WIDOWX_250S.joints
    spec.worldbody.add_geom(
        name="base", type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.08, 0.06, 0.036], pos=[-0.02, 0, 0.036], rgba=DARK,
        group=2, contype=0, conaffinity=0,
    )  # fmt: skip
    for i, joint in enumerate(joints):
        body = spec.body(joint.name)
        end = np.array(joints[i + 1].offset if i + 1 < len(joints) else (0.04, 0.0, 0.0))
        body.mass, body.ipos, body.inertia = MASSES[i], (end / 2).tolist(), [MASSES[i] * 0.01] * 3
        body.explicitinertial = True
        part = spec.joint(joint.name)
        part.damping, part.armature = [0.3, 0.0, 0.0], 0.02
        # Only the gripper's links collide; the others are only rendered.
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=[0.022, 0, 0], fromto=[0, 0, 0, *end.tolist()], rgba=GREY, group=2,
            contype=0, conaffinity=0, mass=0,
        )  # fmt: skip
        servo = spec.add_actuator(name=joint.name, target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        servo.set_to_position(kp=STIFFNESS[i], kv=2.0 * np.sqrt(STIFFNESS[i] * 0.08))
        servo.forcerange, servo.forcelimited = [-joint.torque, joint.torque], 1
    _add_gripper(spec)
    return spec


def _add_gripper(spec: mujoco.MjSpec) -> None:
    hand, tool = spec.body(WIDOWX_250S.joints[-1].name), WIDOWX_250S.tool[0]
    hand.add_site(name="end_effector", pos=list(WIDOWX_250S.tool))
    hand.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.015, 0.05, 0.018], pos=[0.045, 0, 0], rgba=DARK, group=2, mass=0,
        contype=0, conaffinity=0,
    )  # fmt: skip
    closed, opened = WIDOWX_FINGER
    near, far = 0.055, tool + TIP
    for side, name in ((1.0, "left_finger"), (-1.0, "right_finger")):
        finger = hand.add_body(name=name, mass=0.03, inertia=[1e-5] * 3, ipos=[tool, 0, 0])
        finger.explicitinertial = True
        finger.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=[0, side, 0], range=[closed, opened],
            limited=mujoco.mjtLimited.mjLIMITED_TRUE, damping=[FINGER_FORCE / FINGER_SPEED, 0, 0], armature=0.05,
            frictionloss=1.0,
        )  # fmt: skip
        finger.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[(far - near) / 2, PAD, 0.012],
            pos=[(far + near) / 2, side * (PAD - closed), 0], rgba=GREY, group=2, mass=0, friction=[1.5, 0.02, 0.0005],
            condim=4, priority=1,
        )  # fmt: skip
        motor = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        motor.set_to_motor()
    both = spec.add_equality(name="fingers", type=mujoco.mjtEq.mjEQ_JOINT, objtype=mujoco.mjtObj.mjOBJ_JOINT)
    both.name1, both.name2 = "left_finger", "right_finger"
    both.data[:5] = [0, 1, 0, 0, 0]
