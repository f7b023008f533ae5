"""A camera that froze, and stamps its last picture anew: no stamp tells, only that the picture stays the same.

A sensor has noise, so that no two pictures of it are the same to the byte, whatever stands still before it. A simulator
has none: its pictures do stay the same while nothing moves, so that the limit is off there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Picture = np.ndarray[Any, np.dtype[np.uint8]]


class StillPicture:
    """How long a camera's picture has been the very same."""

    def __init__(self) -> None:
        self._picture: Picture | None = None
        self._since = 0.0

    def age(self, picture: Picture, stamp: float) -> float:
        """How long before `stamp` [s] a picture with the very bytes of this one was taken first, among those since."""
        if self._picture is None or stamp < self._since or not np.array_equal(picture, self._picture):
            self._picture, self._since = picture, stamp
        return stamp - self._since


def frozen(age: float, limit: float) -> str:
    """Why a picture is not to be acted upon, in one line; '' when it is. limit [s]: 0 = no picture is too old."""
    if limit <= 0.0 or age <= limit:
        return ""
    return f"the camera is frozen: its picture has not changed by one bit for {age:.2f} s, limit {limit:g} s"


class FrozenCamera(TimeoutError):
    """The camera sends the same picture over and over. It passes: the policy is asked again a while later."""


class AwakePolicy:
    """A policy that gives no action on the pictures of a frozen camera."""

    def __init__(self, policy: Any, limit: float) -> None:
        """`limit` [s] of the same picture; 0 = none."""
        self._policy, self._limit, self._still = policy, limit, StillPicture()

    def reset(self) -> None:
        """As the policy's; a picture stays as old as it is."""
        self._policy.reset()

    def predict(self, observation: Any, instruction: str) -> Any:
        """As the policy's; FrozenCamera instead of an action where the picture has been the same for too long."""
        if self._limit > 0.0 and (why := frozen(self._still.age(observation.image, observation.stamp), self._limit)):
            raise FrozenCamera(why)
        return self._policy.predict(observation, instruction)
