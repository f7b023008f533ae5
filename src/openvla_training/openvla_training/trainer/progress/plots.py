"""A validation as one image: predicted and true actions, and some of the images they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openvla_training.trainer.data.batch import ValidationBatch
from openvla_training.trainer.metrics import Metrics

UNITS = ("x [mm]", "y [mm]", "z [mm]", "roll [mrad]", "pitch [mrad]", "yaw [mrad]", "gripper [0..1]")
SCALES = (1e3,) * 6 + (1.0,)
IMAGES = 7
_BLUE, _RED = "#3a7ca5", "#9e2a2b"


def draw(metrics: Metrics, samples: Sequence[ValidationBatch], title: str) -> np.ndarray:
    """Plot a validation, uint8 (H, W, 3): images with both actions above, predicted over true values below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 6), dpi=80)
    canvas = FigureCanvasAgg(figure)
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.08, top=0.84, wspace=0.24, hspace=0.2)
    figure.suptitle(
        f"{title}   loss {metrics.loss:.3f}   accuracy {metrics.accuracy:.1%}   "
        f"L1 {1e3 * np.mean(metrics.l1[:3]):.1f} mm, {1e3 * np.mean(metrics.l1[3:6]):.1f} mrad, "
        f"gripper {metrics.l1[6]:.2f}"
    )
    rows = figure.subplots(2, len(UNITS))
    images = np.concatenate([part.batch.images.numpy() for part in samples])
    chosen = np.unique(np.linspace(0, len(images) - 1, IMAGES).astype(int))
    for axes in rows[0]:
        axes.axis("off")
    for axes, number in zip(rows[0], chosen, strict=False):
        axes.imshow(images[number])
        axes.set_title(f"{_action_text(metrics.predicted[number])}\n", fontsize=8, color=_RED)
        axes.text(
            0.5,
            1.02,
            _action_text(metrics.true[number]),
            fontsize=8,
            color=_BLUE,
            ha="center",
            transform=axes.transAxes,
        )
    for number, axes in enumerate(rows[1]):
        true, predicted = (SCALES[number] * actions[:, number] for actions in (metrics.true, metrics.predicted))
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        axes.plot([low, high], [low, high], color="#9aa5b1", linewidth=1)
        axes.scatter(true, predicted, s=6, alpha=0.5, color=_RED, edgecolors="none")
        axes.set_title(f"{UNITS[number]}, L1 {SCALES[number] * metrics.l1[number]:.3g}", fontsize=9)
        axes.set_xlabel("true")
    rows[1][0].set_ylabel("predicted")
    figure.text(0.005, 0.965, "predicted", color=_RED, fontsize=9)
    figure.text(0.005, 0.938, "true", color=_BLUE, fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _action_text(action: np.ndarray) -> str:
    x, y, z = 1e3 * action[:3]
    return f"{x:+.0f} {y:+.0f} {z:+.0f} mm, yaw {1e3 * action[5]:+.0f}, grip {action[6]:.1f}"
