"""Detects a frozen camera that stamps its last image again: only the image itself shows that it is old.

A sensor has noise, so that no two of its images are equal to the bit, even of a scene at rest. A simulator has none:
its images are equal while nothing moves, so that the limit is off there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]


class FrozenCamera(TimeoutError):
    """The camera sends the same image over and over. The policy is asked again later: a camera may recover."""


class ImageAge:
    """For how long a camera's image has been the same."""

    def __init__(self) -> None:
        self._image: Image | None = None
        self._since = 0.0

    def update(self, image: Image, stamp: float) -> float:
        """Time [s] before `stamp` [s] at which the first of the present run of equal images was taken."""
        if self._image is None or stamp < self._since or not np.array_equal(image, self._image):
            self._image, self._since = image, stamp
        return stamp - self._since


class FrozenCameraGuard:
    """A policy that gives no action on the images of a frozen camera."""

    def __init__(self, policy: Any, limit: float) -> None:
        """Wrap a policy.

        Args:
            policy: The policy, with `reset` and `predict`.
            limit: Longest time of equal images [s]; 0: no limit.
        """
        self._policy, self._limit, self._age = policy, limit, ImageAge()

    def reset(self) -> None:
        """Reset the policy; the age of the image is kept."""
        self._policy.reset()

    def predict(self, observation: Any, instruction: str) -> Any:
        """Ask the policy.

        Args:
            observation: Image and stamp [s].
            instruction: What to do.

        Returns:
            The policy's answer.

        Raises:
            FrozenCamera: The image has been the same for too long.
        """
        if self._limit > 0.0:
            age = self._age.update(observation.image, observation.stamp)
            if age > self._limit:
                raise FrozenCamera(
                    f"the camera is frozen: its image has not changed by one bit for {age:.2f} s, limit "
                    f"{self._limit:g} s"
                )
        return self._policy.predict(observation, instruction)
