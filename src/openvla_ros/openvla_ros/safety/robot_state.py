"""The robot's newest measurements, their plausibility, and whether motion may begin from there. A pure value."""

from __future__ import annotations

from dataclasses import dataclass, replace

from openvla_ros.geometry import Pose, angle, distance
from openvla_ros.safety.watchdogs import Now, Seen
from openvla_ros.safety.zones import Zones, clamp

STATE_JUMP = 0.05  # [m] smaller steps between two measured poses are no jumps


@dataclass(frozen=True)
class RobotState:
    """The newest measurements."""

    pose: Pose | None = None  # of the end effector, base frame
    seen: Seen | None = None  # stamp and arrival of the pose
    opening: float | None = None  # of the gripper, 0 … 1
    not_before_ns: int = 0  # earlier measurements are from before the robot was restarted

    def pose_seen(self, pose: Pose, stamp_ns: int, now: Now, max_speed: float) -> tuple[RobotState, str]:
        """Take in a measured pose.

        Args:
            pose: Pose of the end effector, base frame.
            stamp_ns: Its stamp [ns].
            now: The present moment.
            max_speed: Highest speed that the arm itself can have [m/s].

        Returns:
            The new state (the same object if the pose is not newer), and why the arm cannot have moved there by
            itself, '' if it can.
        """
        before, seen = self.pose, self.seen
        # (A stamp in the future is of a clock that was set back, or wrong: the new pose counts.)
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
        """After a restart of the robot's controller at that time: earlier measurements do not count."""
        return RobotState(opening=self.opening, not_before_ns=stamp_ns)

    def outside(self, zones: Zones, far: float, turned: float, margin: float) -> str:
        """Check whether motion may begin where the robot is.

        Args:
            zones: Where the end effector may be.
            far: Largest distance outside the zones [m].
            turned: Largest angle outside the zones [rad].
            margin: Distance to keep from keep-out boxes [m].

        Returns:
            Why it may not, in one line; '' if it may, or if there is no measurement.
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
