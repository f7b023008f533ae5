"""The training loop: exact resume on any number of processes, and Hugging Face folders at the end."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.open_source import open_source
from openvla_training.trainer.errors import diagnose
from openvla_training.trainer.export import export_policy
from openvla_training.trainer.metrics import Metrics
from openvla_training.trainer.parallel import join_processes, select_device
from openvla_training.trainer.progress.reporting import Reporter, peak_rate
from openvla_training.trainer.resources.dry_run import estimate_run
from openvla_training.trainer.setup_model import check_processes
from openvla_training.trainer.start import start
from openvla_training.trainer.state import State, load_state, save_state, states
from openvla_training.trainer.train_step import StepMetrics, TrainStep

log = logging.getLogger(__name__)


class Trainer:
    """One run. A second run with the same output folder resumes the first one.

    Attributes:
        checkpoint: What is trained, with the statistics of its data.
        source: Where the batches come from.
        step: Number of completed steps.
        losses: Loss of each step since the beginning of the run.
        accuracies: Training accuracy of action tokens, of each step.
    """

    def __init__(self, config: TrainConfig) -> None:
        """Load the checkpoint and the data, and the newest resume state if the output folder has one.

        Args:
            config: The run.

        Raises:
            ValueError: The run cannot be divided among the processes, its data cannot be trained on, or its resume
                state belongs to another run.
        """
        self.output = Path(config.output.folder)
        self.output.mkdir(parents=True, exist_ok=True)
        if config.parallel.threads:
            torch.set_num_threads(config.parallel.threads)
        torch.manual_seed(config.seed)
        self.device = select_device(config.parallel.device)
        self.world = join_processes(self.device)
        check_processes(config, self.world)
        cache = self.output / "frames"
        self.checkpoint, frames = start(config.model, config.data, cache, self.device, self.world)
        found = states(self.output / "states")
        resumed = found[-1] if found else None
        self.source = open_source(
            config.data, config.schedule, self.checkpoint, frames,
            seed=config.seed, cache=cache, world=self.world, state=resumed.facts["source"] if resumed else {},
        )  # fmt: skip
        self.config = replace(config, schedule=config.schedule.resolved(self.source.steps_per_epoch))
        self.train_step = TrainStep(self.checkpoint, self.config, self.device, self.world)
        self.model, self.adapter = self.checkpoint.model, self.train_step.adapter
        self.step = 0
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        if resumed is not None:
            load_state(resumed, self.model, self.train_step.optimizers, self._identity(), self.world)
            self.step, self.losses = resumed.facts["step"], resumed.facts["losses"]
            self.accuracies = resumed.facts.get("accuracies", [])  # missing in states from before November 2026
            log.info("resuming %s at step %d", self.output, self.step)

    def run(self) -> Path:
        """Train to the last step, and write the policy to `checkpoint`, and to `best` if an earlier state was better.

        Returns:
            The folder `checkpoint`.

        Raises:
            RunError: Out of memory, or another process was lost.
            FloatingPointError: The loss or the gradient is not finite.
            KeyboardInterrupt: Ctrl-C reached any of the processes; the current step was completed and saved.
        """
        reporter = self._reporter() if self.world.is_main else None
        try:
            with Interruption(self.world.size > 1) as interruption:
                self._train(reporter, interruption)
        except RuntimeError as error:
            explained = diagnose(error, self.config, self.checkpoint.config, self.device, self.world, self.step)
            if explained is None:
                raise
            raise explained from error
        finally:
            if reporter is not None:
                reporter.close()
            self.source.close()
        return self._export()

    def _train(self, reporter: Reporter | None, interruption: Interruption) -> None:
        output, steps = self.config.output, self.config.schedule.steps
        while self.step < steps:
            metrics = self.next_step()
            last = self.step == steps
            if reporter is not None and self._reports(self.step):
                reporter.training(self.step, metrics, self.config.learning_rate(self.step - 1))
            validation, done = None, False
            if self.step % output.validate_every == 0 or last:
                validation = self.validate()
                done = self._accurate_enough()
                if reporter is not None:
                    reporter.validation(self.step, metrics.loss, validation, self.source.validation())
            saves = self.step % output.save_every == 0 or last or done
            if saves:
                self.save_state(validation or self.validate())
            if done:
                limit = self.config.schedule.stop_at_accuracy
                log.info("training accuracy above %g: finished at step %d", limit, self.step)
                return
            if not last and self.world.any(interruption.requested):
                if not saves:
                    self.save_state()
                log.info("stopped at step %d; the same command resumes it (%s)", self.step, self.output)
                raise KeyboardInterrupt

    def _accurate_enough(self) -> bool:
        """Whether the accuracy since the last validation ends the training (paper, section 3.4)."""
        recent = self.accuracies[-self.config.output.validate_every :]
        return 0.0 < self.config.schedule.stop_at_accuracy < sum(recent) / max(1, len(recent))

    def next_step(self) -> StepMetrics:
        """Take one optimizer step on the next batch.

        Returns:
            Its metrics.

        Raises:
            FloatingPointError: The loss or the gradient is not finite. The batch is saved, and no parameter changed.
        """
        batch = self.source.next()
        names = self.source.names(batch) if self._reports(self.step + 1) else None
        try:
            metrics = self.train_step.run(batch, self.step, names)
        except FloatingPointError as error:
            bad = self.output / f"bad_batch_{self.step}_{self.world.rank}.pt"
            torch.save(batch, bad)
            advice = "lower optimizer.learning_rate or optimizer.clip_norm"
            raise FloatingPointError(f"{error}; the batch is in {bad}; {advice}") from None
        self.step += 1
        self.losses.append(metrics.loss)
        self.accuracies.append(metrics.accuracy)
        return metrics

    def _reports(self, step: int) -> bool:
        return step % self.config.output.report_every == 0 or step == self.config.schedule.steps

    def validate(self) -> Metrics:
        """Metrics on held-out samples."""
        return self.train_step.validate(self.source.validation())

    def save_state(self, metrics: Metrics | None = None) -> None:
        """Write a resume state, with the validation metrics of this step."""
        facts: dict[str, Any] = {
            "step": self.step, "run": self._identity(), "losses": self.losses, "accuracies": self.accuracies,
            "source": self.source.state(), "metrics": metrics.to_json() if metrics else None,
        }  # fmt: skip
        place, keep = self.output / "states", self.config.output.keep_last
        save_state(place, self.model, self.train_step.optimizers, facts, self.world, keep)

    def _export(self) -> Path:
        found = states(self.output / "states")
        best, last = max(found, key=lambda state: state.score), found[-1]
        if best.score > last.score:
            self._load_parameters(best)
            export_policy(self.checkpoint, self.config, self.adapter, self.output / "best", self.world)
            self._load_parameters(last)
            log.info("step %d had better validation metrics: it is in %s", best.facts["step"], self.output / "best")
        return export_policy(self.checkpoint, self.config, self.adapter, self.output / "checkpoint", self.world)

    def _load_parameters(self, state: State) -> None:
        load_state(state, self.model, (), self._identity(), self.world)

    def _reporter(self) -> Reporter:
        config = self.config
        flops = estimate_run(config, self.checkpoint.config, 1, checkpointing=False).flops
        peak, source = peak_rate(self.device, config.parallel.precision)
        log.info("MFU counts %.3g TFLOP per sample against %.3g TFLOP/s: %s", flops / 1e12, peak / 1e12, source)
        return Reporter(
            config.output,
            settings=asdict(config),
            batch_size=config.data.batch_size,
            first_step=self.step,
            last_step=config.schedule.steps,
            flops=flops,
            peak=peak * self.world.size,
        )

    def _identity(self) -> str:
        """What must not change for a run to resume at the exact sample with the same parameters."""
        rank = f" r={self.config.model.lora_rank}" if self.adapter is not None else ""
        return f"{self.source.about}, seed {self.config.seed}, strategy {self.config.model.strategy}{rank}"


class Interruption:
    """Within a `with` block Ctrl-C (SIGINT) sets `requested` instead of raising; only in the main thread.

    In a single process a second Ctrl-C raises KeyboardInterrupt at once. One of several processes must not leave the
    others waiting in a collective, so there a second one has no effect.
    """

    def __init__(self, several: bool) -> None:
        self.requested, self._several = False, several

    def __enter__(self) -> Interruption:
        self._installed = threading.current_thread() is threading.main_thread()
        if self._installed:
            self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, self._previous)

    def _request(self, number: int, frame: FrameType | None) -> None:
        if self.requested and not self._several:
            raise KeyboardInterrupt
        self.requested = True
