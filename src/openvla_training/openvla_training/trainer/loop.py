"""The training loop: exact resume, live progress, one Hugging Face folder at the end."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from openvla_policy.checkpoint.folder import Checkpoint, load_folder, save_folder
from openvla_policy.checkpoint.tokenizer import train_tokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.prompt import build_prompt
from openvla_policy.contract.statistics import compute
from openvla_policy.model import config as shapes
from openvla_policy.model.vla import OpenVLA
from openvla_training.rlds.reader import count_episodes
from openvla_training.trainer.batches import Batches
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.frames import Frames, load_frames
from openvla_training.trainer.objective import Objective, order_action_tokens
from openvla_training.trainer.optimizers import build_optimizers

log = logging.getLogger(__name__)
GRIPPER_UNTOUCHED = (True,) * 6 + (False,)
VALIDATION_SAMPLES = 512


@dataclass(frozen=True)
class Metrics:
    """Validation figures: loss, share of action tokens that are exactly right, and the mean |error| of each
    dimension in robot units (m, rad, gripper opening).
    """

    loss: float
    accuracy: float
    l1: tuple[float, ...]


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
        self.checkpoint, frames = prepare(config)
        self.model = self.checkpoint.model.to(self.device)
        for parameter in self.model.parameters():
            parameter.requires_grad_(True)
        self.batches = Batches(
            frames, self.checkpoint, config.dataset_name, config.batch_size, config.seed, config.augment
        )
        self.frames = frames
        self._validation: Frames | None = None
        self.objective = Objective(self.checkpoint.action_tokenizer, config.label_sigma, self.device)
        self.optimizers = build_optimizers(self.model, config)
        self.step = 0
        self._resume()

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
                    loss = self._train_step()
                    self.step += 1
                    if self.step % 20 == 0 or self.step == config.steps:
                        rate = (self.step - first) * config.batch_size / (time.perf_counter() - started)
                        progress.update(task, completed=self.step, now=f"loss {loss:.3f}  {rate:.0f} samples/s")
                        writer.add_scalar("train/loss", loss, self.step)
                        writer.add_scalar("train/samples_per_s", rate, self.step)
                    if self.step % config.validate_every == 0 or self.step == config.steps:
                        self._report(writer, loss, started, first)
                    if self.step % config.save_every == 0 and self.step < config.steps:
                        self._save_state()
        except KeyboardInterrupt:
            self._save_state()
            log.info("stopped at step %d; the same command goes on from there (%s)", self.step, self.output)
            raise
        finally:
            writer.close()
        self._save_state()
        folder = self.output / "checkpoint"
        save_folder(folder, self.checkpoint)
        (folder / "training.json").write_text(json.dumps(asdict(config), indent=2, default=str) + "\n", "utf-8")
        return folder

    def _train_step(self) -> float:
        config = self.config
        batch = self.batches.at(self.step)
        self.model.train()
        pixels = self.checkpoint.preparation.normalise(batch.images, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            output = self.model(
                batch.input_ids.to(self.device), pixels, batch.attention_mask, labels=batch.labels.to(self.device)
            )
        loss = self.objective(output)
        if not torch.isfinite(loss):
            bad = self.output / f"bad_batch_{self.step}.pt"
            torch.save(batch, bad)
            raise FloatingPointError(
                f"loss is {loss.item()} at step {self.step}; the batch is in {bad}. Lower learning_rate or clip_norm"
            )
        self.model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate_at(self.step)
            optimizer.step()
        return float(loss.detach())

    @torch.no_grad()
    def validate(self, frames: Frames | None = None) -> Metrics:
        """Teacher-forced figures on up to 512 samples of the validation split, evenly spread."""
        frames = frames if frames is not None else self._validation_frames()
        config, tokenizer = self.config, self.checkpoint.action_tokenizer
        count = min(len(frames), VALIDATION_SAMPLES)
        batches = Batches(frames, self.checkpoint, config.dataset_name, count, 0, None)
        chosen = np.linspace(0, len(frames) - 1, count).astype(np.int64)
        losses, predicted, true = [], [], []
        self.model.eval()
        for part in np.array_split(chosen, max(1, count // 64)):
            batch = batches.collate(part)
            pixels = self.checkpoint.preparation.normalise(batch.images, self.device)
            output = self.model(batch.input_ids.to(self.device), pixels, labels=batch.labels.to(self.device))
            losses.append(float(self.objective(output)) * len(part))
            assert output.label_logits is not None and output.label_targets is not None
            shape = (len(part), -1)
            predicted.append(output.label_logits.argmax(-1).cpu().numpy().reshape(shape)[:, :-1])
            true.append(output.label_targets.cpu().numpy().reshape(shape)[:, :-1])
        ids, targets = np.concatenate(predicted), np.concatenate(true)
        statistics = self.checkpoint.statistics[config.dataset_name]
        actions = statistics.unnormalise(tokenizer.decode(ids))
        errors = np.abs(actions - frames.actions[chosen]).mean(0)
        return Metrics(sum(losses) / count, float((ids == targets).mean()), tuple(float(e) for e in errors))

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

    def _report(self, writer: object, loss: float, started: float, first: int) -> None:
        metrics = self.validate()
        rate = (self.step - first) * self.config.batch_size / (time.perf_counter() - started)
        writer.add_scalar("val/loss", metrics.loss, self.step)  # type: ignore[attr-defined]
        writer.add_scalar("val/action_token_accuracy", metrics.accuracy, self.step)  # type: ignore[attr-defined]
        log.info(
            "step %d/%d  loss %.3f  val %.3f  accuracy %.3f  L1 xyz %s mm  yaw %.3f rad  gripper %.3f  %.0f samples/s",
            self.step,
            self.config.steps,
            loss,
            metrics.loss,
            metrics.accuracy,
            " ".join(f"{1000 * e:.1f}" for e in metrics.l1[:3]),
            metrics.l1[5],
            metrics.l1[6],
            rate,
        )

    # ---- resuming -------------------------------------------------------------------------------------------

    def _save_state(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "samples": self._samples(),
        }
        temporary = self.output / "state.tmp"
        torch.save(state, temporary)
        os.replace(temporary, self.output / "state.pt")

    def _samples(self) -> str:
        """What must not change for a run to go on at the exact sample."""
        config = self.config
        steps = f"{len(self.frames)} steps of {', '.join(config.data)}"
        return f"{steps}, batch_size {config.batch_size}, seed {config.seed}"

    def _resume(self) -> None:
        path = self.output / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        if state["samples"] != self._samples():
            raise ValueError(
                f"{path} belongs to a run on other samples ({state['samples']}, now {self._samples()}); "
                "choose another output, or remove that file to begin anew"
            )
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.step = state["step"]
        log.info("resuming %s at step %d", self.output, self.step)


def prepare(config: TrainConfig) -> tuple[Checkpoint, Frames]:
    """The checkpoint to train (read, or fresh with its own tokenizer) with statistics, and the training frames."""
    cache = Path(config.output) / "frames"
    if config.checkpoint is not None:
        checkpoint = load_folder(config.checkpoint)
        frames = load_frames(config.data, "train", checkpoint.preparation, cache)
        if config.dataset_name not in checkpoint.statistics:
            checkpoint.statistics[config.dataset_name] = compute(frames.trajectories(), mask=GRIPPER_UNTOUCHED)
        return checkpoint, frames
    shape = shapes.tiny(vocab_size=config.vocabulary + 256, **config.model)
    preparation = ImagePreparation.standard(shape.image_size, ["imagenet", "half"] if shape.fused else ["half"])
    frames = load_frames(config.data, "train", preparation, cache)
    tokenizer = train_tokenizer([build_prompt(text) for text in frames.instructions], config.vocabulary + 256)
    statistics = {config.dataset_name: compute(frames.trajectories(), mask=GRIPPER_UNTOUCHED)}
    checkpoint = Checkpoint(OpenVLA(shape), shape, tokenizer, preparation, statistics)
    if config.ordinal_tokens:
        order_action_tokens(checkpoint)
    return checkpoint, frames
