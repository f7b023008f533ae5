"""Whether an arm at rest was moved by something else than the bridge."""

from __future__ import annotations

from openvla_ros.geometry import Pose, angle, distance


class DisplacementMonitor:
    """Remembers where the arm came to rest, and notices when it leaves that place.

    Somebody pushed it, or its controller let go of it: a motion that began at the old target would be a jump. An arm
    that an obstacle holds back stays where it is or comes nearer to the target, and is not displaced.
    """

    def __init__(self, limit: tuple[float, float]) -> None:
        """Begin without a place of rest.

        Args:
            limit: Distance [m] and angle [rad] by which the arm may move away from its target.
        """
        self._limit = limit
        self._rest: Pose | None = None

    def reset(self) -> None:
        """Forget the place of rest: the motion ended elsewhere."""
        self._rest = None

    def displaced(self, measured: Pose, target: Pose | None) -> bool:
        """Whether an arm at rest has moved away from its target since it came to rest.

        Args:
            measured: Measured pose, base frame.
            target: Where the arm is to stand; None while it is moving or has no target.

        Returns:
            Whether it was moved.
        """
        if target is None:
            self._rest = None
            return False
        if self._rest is None:
            self._rest = measured
        far, turned = self._limit
        moved = distance(measured, target) > distance(self._rest, target) + far
        return moved or angle(measured, target) > angle(self._rest, target) + turned
