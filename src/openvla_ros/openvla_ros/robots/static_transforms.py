"""Static transforms, as /tf_static has them: which axes one frame has in another that is fixed to it."""

from __future__ import annotations

from collections.abc import Mapping

from openvla_ros.geometry import IDENTITY, Quaternion, conjugate, multiply

Links = Mapping[str, tuple[str, Quaternion]]  # frame -> its parent, and its axes there


def axes_in(links: Links, frame: str, reference: str) -> Quaternion | None:
    """The axes of `frame` in `reference`; None where no static transforms connect the two. ValueError on a loop."""
    mine, others = _ancestors(links, frame), _ancestors(links, reference)
    for common, axes in mine.items():
        if common in others:
            return multiply(conjugate(others[common]), axes)
    return None


def _ancestors(links: Links, frame: str) -> dict[str, Quaternion]:
    """The frame itself and whatever it is fixed to, nearest first, with the frame's axes there."""
    found, axes = {frame: IDENTITY}, IDENTITY
    while frame in links:
        frame, turn = links[frame]
        axes = multiply(turn, axes)
        if frame in found:
            raise ValueError(f"the static transforms of {', '.join(found)} lead round in a circle")
        found[frame] = axes
    return found
