"""Figures of a dataset's report, each as the bytes of a PNG or JPEG file."""

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
TILE = 160  # [px] longer side of a picture on a contact sheet
WIDTH = 11.0  # [in] of a figure; the page shows it about 1090 px wide, so that 11 pt are 16 px
SMALL, LARGE = 11, 12  # [pt] tick labels, titles


def _figure(height: float, rows: int, columns: int) -> tuple[Figure, Any]:
    # The object-oriented interface: no global state, no display, and nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(colors=INK, labelsize=SMALL, which="both")
    return figure, axes


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, facecolor="white")
    return buffer.getvalue()


def action_histograms(found: Inspection) -> bytes:
    """Draw one histogram for each number of an action, with q01 and q99: translation, rotation, gripper in rows."""
    figure, axes = _figure(8.2, 3, 3)
    statistics = found.statistics.action
    for index, (axis, name) in enumerate(zip(axes.flat, ACTION_NAMES, strict=False)):
        axis.hist(found.actions[:, index], bins=60, color=BLUE)
        axis.set_ylim(bottom=0.8)
        axis.set_yscale("log", subs=[])  # decades alone: labels between them crowd a small panel
        for value in (statistics.q01[index], statistics.q99[index]):
            axis.axvline(value, color=RED, linewidth=1.2, linestyle="--")
        edges = f"q01 {statistics.q01[index]:.3g}   q99 {statistics.q99[index]:.3g}"
        axis.set_title(f"{name}\n{edges}", loc="left", fontsize=LARGE)
        axis.locator_params(axis="x", nbins=5)
        if index % 3 == 0:
            axis.set_ylabel("steps", fontsize=LARGE)
    for axis in axes.flat[len(ACTION_NAMES) :]:
        axis.axis("off")
    axes[2, 1].plot([], [], color=RED, linestyle="--", label="q01 and q99: a policy's outputs −1 and +1")
    axes[2, 1].legend(loc="center left", frameon=False, fontsize=LARGE).set_in_layout(False)  # its column stays narrow
    return _png(figure)


def trajectories(found: Inspection) -> bytes:
    """Draw the paths of the end effector from above, from the side and from the front, one colour an instruction."""
    figure, axes = _figure(4.6, 1, 3)
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
        axis.set_xlabel(f"{across} [m]", fontsize=LARGE)
        axis.set_ylabel(f"{up} [m]", fontsize=LARGE)
        axis.set_aspect("equal", adjustable="datalim")
        axis.locator_params(nbins=5)
        axis.grid(color=FAINT, linewidth=0.4)
    for sentence, colour in colours.items():
        axes.flat[0].plot([], [], color=colour, label=sentence[:48])
    if len(colours) < len({one.instruction for one in found.episodes}):
        axes.flat[0].plot([], [], color=FAINT, label="other instructions")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=SMALL)
    return _png(figure)


def lengths_and_idleness(found: Inspection) -> bytes:
    """Draw histograms of the episodes' lengths and of their shares of idle steps."""
    figure, axes = _figure(3.2, 1, 2)
    lengths = [one.steps for one in found.episodes]
    axes[0, 0].hist(lengths, bins=min(40, max(lengths) - min(lengths) + 1), color=BLUE)
    axes[0, 0].xaxis.get_major_locator().set_params(integer=True)
    axes[0, 0].set_title(f"steps an episode (median {np.median(lengths):g})", loc="left", fontsize=LARGE)
    axes[0, 1].hist([one.idle for one in found.episodes], bins=20, range=(0, 1), color=BLUE)
    axes[0, 1].set_title("idle share of an episode's recorded steps", loc="left", fontsize=LARGE)
    for axis in axes.flat:
        axis.set_ylabel("episodes", fontsize=LARGE)
        axis.yaxis.get_major_locator().set_params(integer=True)
    return _png(figure)


def contact_sheet(pairs: list[tuple[Image, Image]]) -> bytes:
    """Compose pairs of frames as a JPEG: first frames above, last frames below, one column an episode."""
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
