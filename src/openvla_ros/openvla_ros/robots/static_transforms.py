"""Orientation of one frame in another that static transforms (/tf_static) connect with it."""

from __future__ import annotations

from collections.abc import Mapping

from openvla_ros.geometry import IDENTITY, Quaternion, conjugate, multiply

Links = Mapping[str, tuple[str, Quaternion]]  # frame -> its parent, and its orientation in that


def axes_in(links: Links, frame: str, reference: str) -> Quaternion | None:
    """The orientation of `frame` in `reference`; None if no static transforms connect the two."""
    mine, others = _ancestors(links, frame), _ancestors(links, reference)
    for common, axes in mine.items():
        if common in others:
            return multiply(conjugate(others[common]), axes)
    return None


def _ancestors(links: Links, frame: str) -> dict[str, Quaternion]:
    """The frame itself and all frames it is fixed to, nearest first, with its orientation in each."""
    found, axes = {frame: IDENTITY}, IDENTITY
    while frame in links:
        frame, turn = links[frame]
        axes = multiply(turn, axes)
        if frame in found:
            raise ValueError(f"the static transforms of {', '.join(found)} form a loop")
        found[frame] = axes
    return found
