"""What the robot last said of itself, whether that can be, and whether motion may begin from there. A pure value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.geometry import Pose, angle, distance
from openvla_ros.safety.watchdogs import Now, Seen
from openvla_ros.safety.zones import Zones, clamp

STATE_JUMP = 0.05  # [m] smaller steps between two measured poses are never taken for a jump


@dataclass(frozen=True)
class RobotState:
    """The newest measurements."""

    pose: Pose | None = None  # of the end effector, base frame
    seen: Seen | None = None  # when
    opening: float | None = None  # of the gripper, 0 … 1
    not_before_ns: int = 0  # measurements stamped earlier are from before the robot was restarted

    def pose_seen(self, pose: Pose, stamp_ns: int, now: Now, max_speed: float) -> tuple[RobotState, str]:
        """With a newer measured pose; and why it cannot have moved there by itself, '' when it can.

        The very same object when the pose is not newer. max_speed [m/s].
        """
        before, seen = self.pose, self.seen
        # (A time that lies in the future is of a clock that was set back, or wrong: what comes now counts.)
        before_restart = stamp_ns < self.not_before_ns <= now.node
        if before_restart or (seen is not None and stamp_ns <= seen.stamp <= now.node):
            return self, ""
        new = replace(self, pose=pose, seen=Seen(stamp_ns, now))
        if before is not None and seen is not None and (jump := distance(before, pose)) > STATE_JUMP:
            elapsed = (stamp_ns - seen.stamp) * 1e-9
            if jump > max_speed * elapsed:
                return new, f"robot state jumped {jump:.3f} m in {elapsed:.3f} s: the robot was moved or restarted"
        return new, ""

    def restarted(self, stamp_ns: int) -> RobotState:
        """The robot's controller was restarted at that time: what it said before means nothing."""
        return RobotState(opening=self.opening, not_before_ns=stamp_ns)

    def outside(self, zones: Zones, far: float, turned: float, margin: float) -> str:
        """Why motion may not begin where the robot is; '' when it may (or nothing is known).

        far [m], turned [rad]: how far outside its zones it may stand; margin [m]: free before a keep-out box.
        """
        if self.pose is None:
            return ""
        pose, names = clamp(self.pose, zones)
        near = distance(pose, self.pose) <= far and angle(pose, self.pose) <= turned
        inside = [f"keep_out_{box.name}" for box in zones.keep_out if box.contains(pose.position, margin)]
        if near and not inside:
            return ""
        where = [round(v, 3) for v in self.pose.position]
        return f"the robot stands at {where}, outside its limits ({', '.join((*names, *inside))}): move it by hand"
