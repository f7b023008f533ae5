"""What is to be seen of a run: a line in the terminal, TensorBoard, and Weights & Biases if asked."""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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

from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.batch import HeldOut
from openvla_training.trainer.memory_estimate import GPUS, known_gpu
from openvla_training.trainer.metrics import Metrics
from openvla_training.trainer.plots import draw
from openvla_training.trainer.train_step import Figures

log = logging.getLogger(__name__)
LINES_EVERY = 60.0  # [s] between lines of a log file
_AXES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@cache
def peak_rate(device: torch.device, precision: str) -> tuple[float, str]:
    """FLOP/s that a device can reach, and where the number is from: its maker (bf16), or a measured product."""
    if device.type == "cuda" and precision == "bf16":
        name = torch.cuda.get_device_name(device)
        if (known := known_gpu(name)) is not None:
            return GPUS[known][0], f"{name}'s stated bf16 rate"
    size = 4096 if device.type == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        float((a @ a)[0, 0])  # read, so that a GPU is waited for
        best = min(best, time.perf_counter() - start)
    return 2.0 * size**3 / best, f"a measured {precision} product of {size} x {size} matrices"


class Reporter:
    """Of one run, in the process that speaks. Times count from its making."""

    def __init__(self, config: TrainConfig, output: Path, step: int, flops: float, peak: float) -> None:
        """`flops` of a sample, forward and backward; `peak` of all devices together [FLOP/s].

        Raises:
            ValueError: Weights & Biases is asked for, and not installed.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._config, self._output, self._flops, self._peak = config, output, flops, peak
        self._wandb = _start_wandb(config, output) if config.wandb else None
        self._writer = SummaryWriter(output / "curves")
        self._started, self._first = time.perf_counter(), step
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
        self._bar = Progress(*columns, disable=not os.isatty(1))
        self._next_line = self._started  # where there is no terminal to keep a line in
        self._task = self._bar.add_task("train", total=config.steps, completed=step, now="")
        self._bar.start()

    def training(self, step: int, of: Figures) -> None:
        """A point of the training curves."""
        rate = self.samples_per_second(step)
        use = rate * self._flops / self._peak
        left = timedelta(seconds=round((self._config.steps - step) * self._config.batch_size / rate))
        now = (
            f"loss {of.loss:.3f}  accuracy {of.accuracy:.2f}  {_errors(of.l1)}  {rate:.3g} samples/s  "
            f"MFU {use:.1%}  ETA {left}"
        )
        self._bar.update(self._task, completed=step, now=now)
        if self._bar.disable and time.perf_counter() >= self._next_line:
            log.info("step %d/%d  %s", step, self._config.steps, now)
            self._next_line = time.perf_counter() + LINES_EVERY
        figures = {"loss": of.loss, "action_token_accuracy": of.accuracy, "samples_per_s": rate, "mfu": use}
        figures |= {"gradient_norm": of.norm, "learning_rate": self._config.learning_rate_at(step - 1)}
        self._write("train", step, figures | _by_axis(of.l1))

    def validation(self, step: int, loss: float, metrics: Metrics, samples: Sequence[HeldOut]) -> None:
        """Figures of a validation, with its picture in validation/step-N.png."""
        pixels = draw(metrics, samples, f"step {step}")
        folder = self._output / "validation"
        folder.mkdir(exist_ok=True)
        picture = folder / f"step-{step}.png"
        cv2.imwrite(str(picture), pixels[..., ::-1])
        self._writer.add_image("val/actions", pixels, step, dataformats="HWC")
        figures = {"loss": metrics.loss, "action_token_accuracy": metrics.accuracy}
        self._write("val", step, figures | _by_axis(metrics.l1))
        if self._wandb is not None:
            self._wandb.log({"val/actions": self._wandb.Image(str(picture))}, step=step)
        log.info(
            "step %d/%d  loss %.3f  val %.3f  accuracy %.3f  %s  %.3g samples/s",
            step, self._config.steps, loss, metrics.loss, metrics.accuracy, _errors(metrics.l1),
            self.samples_per_second(step),
        )  # fmt: skip

    def samples_per_second(self, step: int) -> float:
        """Mean since the start of this process."""
        return (step - self._first) * self._config.batch_size / (time.perf_counter() - self._started)

    def close(self) -> None:
        """Write out everything."""
        self._bar.stop()
        self._writer.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _write(self, group: str, step: int, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
        if self._wandb is not None:
            self._wandb.log({f"{group}/{name}": value for name, value in figures.items()}, step=step)


def _errors(l1: Sequence[float] | Tensor) -> str:
    mean = np.asarray(l1)
    return f"L1 {1e3 * mean[:3].mean():.1f} mm {mean[3:6].mean():.3f} rad grip {mean[6]:.2f}"


def _by_axis(l1: Sequence[float] | Tensor) -> dict[str, float]:
    return {f"l1/{name}": float(value) for name, value in zip(_AXES, l1, strict=True)}


def _start_wandb(config: TrainConfig, output: Path) -> Any:
    if find_spec("wandb") is None:
        raise ValueError(f"wandb: {config.wandb!r} needs the package wandb: pip install wandb, or leave the option out")
    wandb = importlib.import_module("wandb")
    # The folder's name is the run's, so that a resumed run goes on with its curves.
    wandb.init(project=config.wandb, id=output.resolve().name, resume="allow", dir=output, config=asdict(config))
    return wandb
