"""The training loop: exact resume, live progress, one Hugging Face folder at the end."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from openvla_policy.model.vla import VLAOutput
from openvla_training.rlds.reader import count_episodes
from openvla_training.trainer.batches import Batch, Batches
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.frames import Frames, load_frames
from openvla_training.trainer.metrics import Metrics, token_accuracy, validate
from openvla_training.trainer.objective import Objective
from openvla_training.trainer.optimizers import build_optimizers
from openvla_training.trainer.prepare import prepare, ready_model
from openvla_training.trainer.result import save_result
from openvla_training.trainer.state import load_state, save_state

log = logging.getLogger(__name__)


class Trainer:
    """One run of `config`. A second run with the same output folder goes on where the first one stopped."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        name = ("cuda" if torch.cuda.is_available() else "cpu") if config.device == "auto" else config.device
        self.device = torch.device(name)
        self.checkpoint, self.frames = prepare(config, self.device)
        self.adapter = ready_model(self.checkpoint, config)
        self.model = self.checkpoint.model
        self.batches = Batches(
            self.frames, self.checkpoint, config.dataset_name, config.batch_size, config.seed, config.augment
        )
        self._validation: Frames | None = None
        self.objective = Objective(self.checkpoint.action_tokenizer, config.label_sigma, self.device)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(self.model, config)
        self.step, self.accuracy, self.losses = 0, 0.0, []  # type: int, float, list[float]
        state = load_state(self.output / "state.pt", self.model, self.optimizers, self._run())
        if state is not None:
            self.step, self.losses = state["step"], state["losses"]
            log.info("resuming %s at step %d", self.output, self.step)

    # ---- running --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step and write the checkpoint folder; returns it."""
        from torch.utils.tensorboard import SummaryWriter

        config = self.config
        writer = SummaryWriter(self.output / "curves")
        columns = (
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
        )
        started, first = time.perf_counter(), self.step
        try:
            with Progress(*columns, disable=not os.isatty(1)) as progress:
                task = progress.add_task("train", total=config.steps, completed=self.step, now="")
                while self.step < config.steps:
                    loss = self.train_step()
                    if self.step % 20 == 0 or self.step == config.steps:
                        rate = (self.step - first) * config.batch_size / (time.perf_counter() - started)
                        now = f"loss {loss:.3f}  accuracy {self.accuracy:.2f}  {rate:.0f} samples/s"
                        progress.update(task, completed=self.step, now=now)
                        writer.add_scalar("train/loss", loss, self.step)
                        writer.add_scalar("train/action_token_accuracy", self.accuracy, self.step)
                        writer.add_scalar("train/samples_per_s", rate, self.step)
                    if self.step % config.validate_every == 0 or self.step == config.steps:
                        metrics = self._report(writer, loss, started, first)
                        if 0.0 < config.stop_at_accuracy <= metrics.accuracy:
                            log.info("accuracy %.3f reached: done at step %d", metrics.accuracy, self.step)
                            break
                    if self.step % config.save_every == 0 and self.step < config.steps:
                        self.save_state()
        except KeyboardInterrupt:
            self.save_state()
            log.info("stopped at step %d; the same command goes on from there (%s)", self.step, self.output)
            raise
        finally:
            writer.close()
        self.save_state()
        folder = save_result(self.checkpoint, config, self.adapter, self.output / "checkpoint")
        (folder / "training.json").write_text(json.dumps(asdict(config), indent=2, default=str) + "\n", "utf-8")
        return folder

    def train_step(self) -> float:
        """One optimizer step on the next batch; returns its loss.

        Raises:
            FloatingPointError: the loss is not finite. The batch is saved for a look at it, nothing was changed.
        """
        config = self.config
        batch = self.batches.at(self.step)
        self.model.train()
        self.model.zero_grad(set_to_none=True)
        mean = right = 0.0
        for part, share in self._parts(batch):
            output = self.forward(part)
            loss = self.objective(output)
            if not torch.isfinite(loss):
                bad = self.output / f"bad_batch_{self.step}.pt"
                torch.save(batch, bad)
                raise FloatingPointError(
                    f"loss is {loss.item()} at step {self.step}; the batch is in {bad}. "
                    "Lower learning_rate or clip_norm"
                )
            (loss * share).backward()
            mean += float(loss.detach()) * share
            right += token_accuracy(output, self.checkpoint.action_tokenizer.first_id) * share
        nn.utils.clip_grad_norm_(self.trained, config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(self.step)
            optimizer.step()
        self.step += 1
        self.accuracy = right
        self.losses.append(mean)
        return mean

    def forward(self, batch: Batch) -> VLAOutput:
        """Loss logits of one batch, in the run's precision."""
        pixels = self.checkpoint.preparation.normalise(batch.images, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            return self.model(
                batch.input_ids.to(self.device), pixels, batch.attention_mask, labels=batch.labels.to(self.device)
            )

    def validate(self, frames: Frames | None = None) -> Metrics:
        """Figures on the validation split, or on `frames`."""
        frames = frames if frames is not None else self._validation_frames()
        return validate(self.forward, self.objective, self.checkpoint, frames, self.config.dataset_name)

    def save_state(self) -> None:
        """Write what a second run goes on from."""
        path = self.output / "state.pt"
        save_state(path, self.step, self.model, self.optimizers, self._run(), losses=self.losses)

    def _parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """Micro-batches with their share of the samples. Every sample has as many labels, so shares weigh losses."""
        samples = len(batch.images)
        size = self.config.micro_batch_size or samples
        for start in range(0, samples, size):
            rows = slice(start, min(start + size, samples))
            parts = {name: getattr(batch, name)[rows] for name in ("input_ids", "labels", "attention_mask", "images")}
            yield replace(batch, **parts), (rows.stop - start) / samples

    def _validation_frames(self) -> Frames:
        if self._validation is None:
            held_out = [data for data in self.config.data if "val" in count_episodes(data)]
            if held_out:
                cache = self.output / "frames"
                self._validation = load_frames(held_out, "val", self.checkpoint.preparation, cache)
            else:
                log.warning("no validation split in %s: validating on training samples", ", ".join(self.config.data))
                self._validation = self.frames
        return self._validation

    def _report(self, writer: object, loss: float, started: float, first: int) -> Metrics:
        metrics = self.validate()
        rate = (self.step - first) * self.config.batch_size / (time.perf_counter() - started)
        writer.add_scalar("val/loss", metrics.loss, self.step)  # type: ignore[attr-defined]
        writer.add_scalar("val/action_token_accuracy", metrics.accuracy, self.step)  # type: ignore[attr-defined]
        log.info(
            "step %d/%d  loss %.3f  val %.3f  accuracy %.3f  L1 xyz %s mm  yaw %.3f rad  gripper %.3f  %.0f samples/s",
            self.step, self.config.steps, loss, metrics.loss, metrics.accuracy,
            " ".join(f"{1000 * e:.1f}" for e in metrics.l1[:3]), metrics.l1[5], metrics.l1[6], rate,
        )  # fmt: skip
        return metrics

    def _run(self) -> str:
        """What must not change for a run to go on at the exact sample with the same parameters."""
        config = self.config
        text = f"{len(self.frames)} steps of {', '.join(config.data)}, batch_size {config.batch_size}"
        rank = f" r={config.lora_rank}" if self.adapter is not None else ""
        return f"{text}, seed {config.seed}, strategy {config.strategy}{rank}"
