"""Reports of a run: a progress line, TensorBoard, and optionally Weights & Biases."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import Tensor

from openvla_training.trainer.config import OutputConfig
from openvla_training.trainer.data.batch import ValidationBatch
from openvla_training.trainer.metrics import Metrics
from openvla_training.trainer.progress.plots import draw
from openvla_training.trainer.resources.memory_estimate import GPUS, known_gpu
from openvla_training.trainer.train_step import StepMetrics

log = logging.getLogger(__name__)
LOG_INTERVAL = 60.0  # [s], where there is no terminal for a progress bar
_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@cache
def peak_rate(device: torch.device, precision: str) -> tuple[float, str]:
    """The rate of a device [FLOP/s], and its source: the maker's data sheet (bf16), or a measured matrix product."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        if (known := known_gpu(name)) is not None:
            return GPUS[known][0], f"the data sheet of {name}, bf16"
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # reading a value waits for the GPU
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best, f"a measured {precision} product of {size} x {size} matrices"


class Reporter:
    """Reports one run, in its main process. Rates are averages since the reporter was made."""

    def __init__(
        self,
        config: OutputConfig,
        *,
        settings: Mapping[str, Any],
        batch_size: int,
        first_step: int,
        last_step: int,
        flops: float,
        peak: float,
    ) -> None:
        """Open the log files.

        Args:
            config: The folder, and the Weights & Biases project.
            settings: The whole configuration, for Weights & Biases.
            batch_size: Samples of a step.
            first_step: Number of steps that are already completed.
            last_step: Number of steps of the whole run.
            flops: Cost of a sample, forward and backward.
            peak: Rate of all devices together [FLOP/s].

        Raises:
            ValueError: Weights & Biases is asked for but not installed.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._output, self._batch_size = Path(config.folder), batch_size
        self._flops, self._peak = flops, peak
        self._wandb = _start_wandb(config.wandb, self._output, settings) if config.wandb else None
        self._writer = SummaryWriter(self._output / "curves")
        self._started, self._first, self._last = time.perf_counter(), first_step, last_step
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
        self._bar = Progress(*columns, disable=not os.isatty(1))
        self._next_line = self._started
        self._task = self._bar.add_task("train", total=last_step, completed=first_step, now="")
        self._bar.start()

    def training(self, step: int, metrics: StepMetrics, learning_rate: float) -> None:
        """Add a point to the training curves."""
        rate = self.samples_per_second(step)
        utilisation = rate * self._flops / self._peak
        remaining = timedelta(seconds=round((self._last - step) * self._batch_size / rate))
        now = (
            f"loss {metrics.loss:.3f}  accuracy {metrics.accuracy:.2f}  {_error_text(metrics.l1)}  "
            f"{rate:.3g} samples/s  MFU {utilisation:.1%}  ETA {remaining}"
        )
        self._bar.update(self._task, completed=step, now=now)
        if self._bar.disable and time.perf_counter() >= self._next_line:
            log.info("step %d/%d  %s", step, self._last, now)
            self._next_line = time.perf_counter() + LOG_INTERVAL
        values = {"loss": metrics.loss, "action_token_accuracy": metrics.accuracy, "samples_per_s": rate}
        values |= {"mfu": utilisation, "gradient_norm": metrics.gradient_norm, "learning_rate": learning_rate}
        self._write("train", step, values | _by_axis(metrics.l1))

    def validation(self, step: int, loss: float, metrics: Metrics, samples: Sequence[ValidationBatch]) -> None:
        """Add a validation, and plot it to validation/step-N.png."""
        pixels = draw(metrics, samples, f"step {step}")
        folder = self._output / "validation"
        folder.mkdir(exist_ok=True)
        plot = folder / f"step-{step}.png"
        cv2.imwrite(str(plot), pixels[..., ::-1])
        self._writer.add_image("val/actions", pixels, step, dataformats="HWC")
        values = {"loss": metrics.loss, "action_token_accuracy": metrics.accuracy}
        self._write("val", step, values | _by_axis(metrics.l1))
        if self._wandb is not None:
            self._wandb.log({"val/actions": self._wandb.Image(str(plot))}, step=step)
        log.info(
            "step %d/%d  loss %.3f  val %.3f  accuracy %.3f  %s  %.3g samples/s",
            step, self._last, loss, metrics.loss, metrics.accuracy, _error_text(metrics.l1),
            self.samples_per_second(step),
        )  # fmt: skip

    def samples_per_second(self, step: int) -> float:
        """Mean throughput since the start of this process."""
        return (step - self._first) * self._batch_size / (time.perf_counter() - self._started)

    def close(self) -> None:
        """Flush and close the logs."""
        self._bar.stop()
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, group: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{group}/{name}": value for name, value in values.items()}, step=step)


def _error_text(l1: Sequence[float] | Tensor) -> str:
    mean = np.asarray(l1)
    return f"L1 {1e3 * mean[:3].mean():.1f} mm {mean[3:6].mean():.3f} rad grip {mean[6]:.2f}"


def _by_axis(l1: Sequence[float] | Tensor) -> dict[str, float]:
    return {f"l1/{name}": float(value) for name, value in zip(_AXES, l1, strict=True)}


def _start_wandb(project: str, output: Path, settings: Mapping[str, Any]) -> Any:
    if find_spec("wandb") is None:
        raise ValueError(f"output.wandb: {project!r} needs the package wandb: pip install wandb, or omit the option")
    wandb = importlib.import_module("wandb")
    # The folder's name identifies the run, so that a resumed run continues its curves.
    wandb.init(project=project, id=output.resolve().name, resume="allow", dir=output, config=dict(settings))
    return wandb
