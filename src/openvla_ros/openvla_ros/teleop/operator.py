"""From demands to actions: permission, speed, frame and gripper. The one way from any device to an ActionChunk.

No action without a held deadman that was seen released before, none from a device that went silent, and none larger
than speed × period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.teleop.leader_arm import Follower
from openvla_ros.teleop.operator_input import Demand, DeviceError

OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True)
class Speed:
    """Full speed of the arm [m/s, rad/s], the factors of the slow and the fast button, the time of an action [s]."""

    linear: float = 0.1
    angular: float = 0.5
    slow: float = 0.3
    fast: float = 2.0
    period: float = 0.1

    def largest(self, speed: str) -> tuple[float, float]:
        """The largest step of one action [m, rad]."""
        factor = {"slow": self.slow, "fast": self.fast}.get(speed, 1.0)
        return self.linear * factor * self.period, self.angular * factor * self.period


class Operator:
    """The state between device and actions; every call is given the time [s, any steady clock]."""

    def __init__(self, speed: Speed, timeout: float, follower: Follower | None = None) -> None:
        """``timeout``: a device silent for longer is not followed [s]. ``follower``: of a leader, else None."""
        self.speed, self.timeout, self.follower = speed, timeout, follower
        self.gripper: float | None = None  # commanded opening; None until the measured one is known
        self.reason = "no message of the device yet"
        self.unheld = "the deadman is not held"  # how to say so, for this device
        self._demand: Demand | None = None
        self._felt = -math.inf
        self._armed = False  # the deadman was seen released since the device was last lost
        self._pressed: frozenset[str] | None = None  # None: what is down now was not seen being pressed

    def feel(self, demand: Demand, now: float) -> tuple[str, ...]:
        """Take what the device says; the commands whose buttons went down with it."""
        if self._silent(now):
            self.lose()
        new = frozenset() if self._pressed is None else demand.pressed - self._pressed
        self._demand, self._felt, self._pressed = demand, now, demand.pressed
        self._armed = self._armed or not demand.held
        if self.follower is not None and not demand.held:
            self.follower.release()
        if not (demand.held and self._armed):
            pass  # the hand opens and closes under the deadman only, as the arm moves
        elif "gripper" in new:
            self.toggle_gripper()
        elif demand.opening is not None and self.gripper is not None:
            # Hysteresis: a finger that trembles at the middle does not open and close the hand.
            self.gripper = OPEN if demand.opening > 0.6 else CLOSED if demand.opening < 0.4 else self.gripper
        return tuple(sorted(new - {"gripper"}))

    def lose(self, reason: str = "") -> None:
        """The device is gone, or says what cannot be followed: the deadman must be let go and held anew."""
        self._armed, self._demand, self._pressed = False, None, None
        if self.follower is not None:
            self.follower.forget()
        self.reason = reason or "the device is silent"

    def toggle_gripper(self) -> None:
        """Open what is closed, and the other way round; nothing while it is unknown which."""
        if self.gripper is not None:
            self.gripper = CLOSED if self.gripper == OPEN else OPEN

    def measured(self, opening: float) -> None:
        """Take the gripper's state for the commanded one, as long as nothing was commanded."""
        if self.gripper is None:
            self.gripper = OPEN if opening >= 0.5 else CLOSED

    def action(self, now: float, mapping: Rotation) -> tuple[float, ...] | None:
        """The action for the next period, in the base frame; None, with a ``reason``, when there is to be none.

        ``mapping``: from the device's axes to the base's. Translation [m], fixed-axis XYZ angles [rad], opening.
        """
        blocked = self._blocked(now)
        if blocked:
            self.reason = blocked
            if self.follower is not None:
                self.follower.release()
            return None
        assert self._demand is not None and self.gripper is not None
        largest = self.speed.largest(self._demand.speed)
        try:
            move, turn = self._step(self._demand, largest)
        except DeviceError as error:
            self.lose(str(error))
            return None
        self.reason = ""
        angles = Rotation.from_rotvec(mapping.apply(turn)).as_euler("xyz")  # lower case: about fixed axes
        return (*(float(v) for v in mapping.apply(move)), *(float(v) for v in angles), self.gripper)

    def _silent(self, now: float) -> bool:
        return self._demand is not None and now - self._felt > self.timeout

    def _blocked(self, now: float) -> str:
        if self._silent(now):
            self.lose(f"the device is silent for {now - self._felt:.1f} s")
        if self._demand is None:
            return self.reason or "the device is silent"
        if not self._demand.held:
            return self.unheld
        if not self._armed:
            return "let the deadman go once, then hold it"
        return "no gripper/state yet" if self.gripper is None else ""

    def _step(self, demand: Demand, largest: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        if self.follower is not None:
            return self.follower.step(largest)
        return _within(demand.twist[:3]) * largest[0], _within(demand.twist[3:]) * largest[1]


def _within(share: tuple[float, ...]) -> np.ndarray:
    """No longer than 1, whichever way it points: two axes at once are not faster than one."""
    vector = np.array(share)
    return vector / max(1.0, float(np.linalg.norm(vector)))
