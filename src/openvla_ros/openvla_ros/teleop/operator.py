"""From the operator's input to actions: permission, speed, frame and gripper, for every device.

No action without a held deadman that was seen released before, none from a silent device, and none larger than
speed × period.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from openvla_ros.teleop.leader_arm import Follower
from openvla_ros.teleop.operator_input import DeviceError, OperatorInput

OPEN, CLOSED = 1.0, 0.0


@dataclass(frozen=True)
class Speed:
    """Speed of the arm.

    Attributes:
        linear: Full speed [m/s].
        angular: Full angular speed [rad/s].
        slow: Factor of the slow button.
        fast: Factor of the fast button.
        period: Time of an action [s].
    """

    linear: float = 0.1
    angular: float = 0.5
    slow: float = 0.3
    fast: float = 2.0
    period: float = 0.1

    def largest(self, speed: str) -> tuple[float, float]:
        """Largest step of one action [m, rad], at the speed '', 'slow' or 'fast'."""
        factor = {"slow": self.slow, "fast": self.fast}.get(speed, 1.0)
        return self.linear * factor * self.period, self.angular * factor * self.period


class Operator:
    """State between device and actions; calls pass the time [s, any steady clock].

    Attributes:
        speed: Speed of the arm.
        timeout: A device silent for longer moves nothing [s].
        follower: Follower of a leader arm; None for other devices.
        gripper: Commanded opening; None until the measured one is known.
        reason: Why there is no action; '' when there is one.
        unheld: The reason when the deadman is not held, in terms of the device.
    """

    def __init__(self, speed: Speed, timeout: float, follower: Follower | None = None) -> None:
        """Start without permission: the deadman must be seen released first."""
        self.speed, self.timeout, self.follower = speed, timeout, follower
        self.gripper: float | None = None
        self.reason = "no message of the device yet"
        self.unheld = "the deadman is not held"
        self._input: OperatorInput | None = None
        self._input_at = -math.inf
        self._armed = False  # the deadman was seen released since the device was last lost
        self._pressed: frozenset[str] | None = None  # None: buttons that are down now were not seen being pressed

    def apply(self, given: OperatorInput, now: float) -> tuple[str, ...]:
        """Take the input of the device.

        Args:
            given: The input.
            now: Time [s].

        Returns:
            The commands whose buttons were pressed with it.
        """
        if self._silent(now):
            self.disarm()
        new = frozenset() if self._pressed is None else given.pressed - self._pressed
        self._input, self._input_at, self._pressed = given, now, given.pressed
        self._armed = self._armed or not given.held
        if self.follower is not None and not given.held:
            self.follower.release()
        if not (given.held and self._armed):
            pass  # the gripper, like the arm, moves under the deadman only
        elif "gripper" in new:
            self.toggle_gripper()
        elif given.opening is not None and self.gripper is not None:
            # Hysteresis: a trembling finger at the middle does not open and close the gripper.
            self.gripper = OPEN if given.opening > 0.6 else CLOSED if given.opening < 0.4 else self.gripper
        return tuple(sorted(new - {"gripper"}))

    def disarm(self, reason: str = "") -> None:
        """Withdraw the permission until the deadman is released and held again.

        Args:
            reason: Why; '' for a silent device.
        """
        self._armed, self._input, self._pressed = False, None, None
        if self.follower is not None:
            self.follower.reset()
        self.reason = reason or "the device is silent"

    def toggle_gripper(self) -> None:
        """Open a closed gripper and close an open one; without effect while its state is unknown."""
        if self.gripper is not None:
            self.gripper = CLOSED if self.gripper == OPEN else OPEN

    def gripper_measured(self, opening: float) -> None:
        """Take a measured opening, 0 … 1, as the commanded one as long as there was no command."""
        if self.gripper is None:
            self.gripper = OPEN if opening >= 0.5 else CLOSED

    def action(self, now: float, mapping: Rotation) -> tuple[float, ...] | None:
        """The action for the next period.

        Args:
            now: Time [s].
            mapping: Rotation from the device's axes to the base frame.

        Returns:
            Translation [m], fixed-axis XYZ angles [rad] and opening (7 numbers), base frame; None where there is no
            action, for `reason`.
        """
        blocked = self._blocked(now)
        if blocked:
            self.reason = blocked
            if self.follower is not None:
                self.follower.release()
            return None
        assert self._input is not None and self.gripper is not None
        largest = self.speed.largest(self._input.speed)
        try:
            move, turn = self._step(self._input, largest)
        except DeviceError as error:
            self.disarm(str(error))
            return None
        self.reason = ""
        angles = Rotation.from_rotvec(mapping.apply(turn)).as_euler("xyz")  # lower case: about fixed axes
        return (*(float(v) for v in mapping.apply(move)), *(float(v) for v in angles), self.gripper)

    def _silent(self, now: float) -> bool:
        return self._input is not None and now - self._input_at > self.timeout

    def _blocked(self, now: float) -> str:
        if self._silent(now):
            self.disarm(f"the device is silent for {now - self._input_at:.1f} s")
        if self._input is None:
            return self.reason or "the device is silent"
        if not self._input.held:
            return self.unheld
        if not self._armed:
            return "release the deadman once, then hold it"
        return "no gripper/state yet" if self.gripper is None else ""

    def _step(self, given: OperatorInput, largest: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        if self.follower is not None:
            return self.follower.step(largest)
        return _within(given.twist[:3]) * largest[0], _within(given.twist[3:]) * largest[1]


def _within(share: tuple[float, ...]) -> np.ndarray:
    """A share of full speed as a vector no longer than 1, so that two axes at once are not faster than one."""
    vector = np.array(share)
    return vector / max(1.0, float(np.linalg.norm(vector)))
