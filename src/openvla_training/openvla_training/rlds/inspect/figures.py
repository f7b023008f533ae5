"""Drawings of a dataset's report, each as the bytes of a PNG or JPEG file."""

from __future__ import annotations

import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from openvla_training.rlds.images import Image, encode_image
from openvla_training.rlds.inspect.quality import ACTION_NAMES, Inspection

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, BLUE, RED = "#1f2933", "#cbd2d9", "#2f6f9f", "#c2410c"
PALETTE = ("#2f6f9f", "#c2410c", "#3f8f5f", "#8a5aa8", "#b08900", "#5b6770", "#d1608f", "#2a9d9d")
MAX_TRAJECTORIES = 80
TILE = 160  # [px] side of a picture on a contact sheet


def _figure(width: float, height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    # The object-oriented interface: no global state, no display, and nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=8, which="both")
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return buffer.getvalue()


def action_histograms(found: Inspection) -> bytes:
    """One histogram for each of the seven numbers, with q01 and q99."""
    figure, axes = _figure(11, 4.6, 2, 4)
    statistics = found.statistics.action
    for index, (axis, name) in enumerate(zip(axes.flat, ACTION_NAMES, strict=False)):
        axis.hist(found.actions[:, index], bins=60, color=BLUE)
        axis.set_ylim(bottom=0.8)
        axis.set_yscale("log", subs=[])  # decades alone: labels between them crowd a small panel
        for value in (statistics.q01[index], statistics.q99[index]):
            axis.axvline(value, color=RED, linewidth=1.2, linestyle="--")
        axis.set_title(
            f"{name}   q01 {statistics.q01[index]:.3g}   q99 {statistics.q99[index]:.3g}", loc="left", fontsize=9
        )
        if index % 4 == 0:
            axis.set_ylabel("steps", fontsize=8)
    last = axes.flat[-1]
    last.axis("off")
    last.plot([], [], color=RED, linestyle="--", label="q01 and q99: what a policy's −1 and +1 mean")
    last.legend(loc="center", frameon=False, fontsize=8)
    return _png(figure)


def trajectories(found: Inspection) -> bytes:
    """Paths of the end effector from above, from the front and from the side, one colour an instruction."""
    figure, axes = _figure(11, 3.9, 1, 3)
    common = Counter(one.instruction for one in found.episodes).most_common(len(PALETTE))
    colours = {sentence: PALETTE[number] for number, (sentence, _) in enumerate(common)}
    step = max(1, -(-len(found.episodes) // MAX_TRAJECTORIES))
    for one in found.episodes[::step]:
        colour = colours.get(one.instruction, FAINT)
        for axis, (a, b) in zip(axes.flat, ((0, 1), (0, 2), (1, 2)), strict=True):
            axis.plot(one.positions[:, a], one.positions[:, b], color=colour, linewidth=0.8, alpha=0.6)
            axis.plot(*one.positions[0, [a, b]], "o", color=colour, markersize=3)
            axis.plot(*one.positions[-1, [a, b]], "x", color=colour, markersize=4)
    for axis, (across, up) in zip(axes.flat, (("x", "y"), ("x", "z"), ("y", "z")), strict=True):
        axis.set_xlabel(f"{across} [m]", fontsize=8)
        axis.set_ylabel(f"{up} [m]", fontsize=8)
        axis.set_aspect("equal", adjustable="datalim")
        axis.grid(color=FAINT, linewidth=0.4)
    for sentence, colour in colours.items():
        axes.flat[0].plot([], [], color=colour, label=sentence[:48])
    if len(colours) < len({one.instruction for one in found.episodes}):
        axes.flat[0].plot([], [], color=FAINT, label="other instructions")
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return _png(figure)


def lengths_and_idleness(found: Inspection) -> bytes:
    """Histograms of the episodes' lengths and of their share of idle steps."""
    figure, axes = _figure(11, 2.6, 1, 2)
    lengths = [one.steps for one in found.episodes]
    axes[0, 0].hist(lengths, bins=min(40, max(lengths) - min(lengths) + 1), color=BLUE)
    axes[0, 0].set_title(f"steps an episode (median {np.median(lengths):g})", loc="left", fontsize=9)
    axes[0, 1].hist([one.idle for one in found.episodes], bins=20, range=(0, 1), color=BLUE)
    axes[0, 1].set_title("idle share of an episode's recorded steps", loc="left", fontsize=9)
    for axis in axes.flat:
        axis.set_ylabel("episodes", fontsize=8)
        axis.yaxis.get_major_locator().set_params(integer=True)
    return _png(figure)


def contact_sheet(pairs: list[tuple[Image, Image]]) -> bytes:
    """First frames above, last frames below, one column an episode, as a JPEG."""
    gap = 4
    columns = []
    for pair in pairs:
        height, width = pair[0].shape[:2]
        scale = TILE / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        tiles = [cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA) for image in pair]
        line = np.full((gap, size[0], 3), 255, np.uint8)
        columns.append(np.concatenate([tiles[0], line, tiles[1]]))
    height = max(column.shape[0] for column in columns)
    padded = [
        np.pad(column, ((0, height - column.shape[0]), (0, gap), (0, 0)), constant_values=255) for column in columns
    ]
    return encode_image(np.ascontiguousarray(np.concatenate(padded, axis=1)), "jpeg")
