"""The training loop: exact resume on any number of processes, and Hugging Face folders at the end."""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import torch

from openvla_training.openx.mixture import load_mixture
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.data.memory_source import FrameSource
from openvla_training.trainer.data.mixture_source import MixtureSource, steps_of
from openvla_training.trainer.data.source import Source
from openvla_training.trainer.dry_run import need
from openvla_training.trainer.errors import explain
from openvla_training.trainer.export import save_result
from openvla_training.trainer.metrics import Metrics
from openvla_training.trainer.parallel import device_of, join
from openvla_training.trainer.reporting import Reporter, peak_rate
from openvla_training.trainer.setup_model import check_processes
from openvla_training.trainer.start import prepare
from openvla_training.trainer.state import State, load_state, save_state, states
from openvla_training.trainer.train_step import Figures, Learner

log = logging.getLogger(__name__)


class Trainer:
    """One run of `config`. A second run with the same output folder goes on where the first one stopped."""

    def __init__(self, config: TrainConfig) -> None:
        self.output = Path(config.output)
        self.output.mkdir(parents=True, exist_ok=True)
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = device_of(config.device)
        self.world = join(self.device)
        check_processes(config, self.world)
        self.checkpoint, frames = prepare(config, self.device, self.world)
        found = states(self.output / "states")
        resumed = found[-1] if found else None
        where = resumed.facts["source"] if resumed else {}
        self.source: Source
        if frames is not None:
            self.source = FrameSource(frames, self.checkpoint, config, self.world, where)
        else:
            mixture = load_mixture(str(config.mixture))
            self.source = MixtureSource(mixture, self.checkpoint, config, self.world, where)
        self.config = config = replace(config, steps=steps_of(config, self.source.length))
        self.learner = Learner(self.checkpoint, config, self.device, self.world)
        self.model, self.adapter = self.checkpoint.model, self.learner.adapter
        self.step = 0
        self.losses: list[float] = []
        self.accuracies: list[float] = []  # of action tokens, in training
        if resumed is not None:
            load_state(resumed, self.model, self.learner.optimizers, self._run(), self.world)
            self.step, self.losses = resumed.facts["step"], resumed.facts["losses"]
            self.accuracies = resumed.facts.get("accuracies", [])  # states of before November 2026 have none
            log.info("resuming %s at step %d", self.output, self.step)

    # ---- running --------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Train to the last step and write the checkpoint folder, and `best` if an earlier state was; returns it.

        Raises:
            FloatingPointError: see train_step. RunError: out of memory, or another process was lost, with the remedy.
            KeyboardInterrupt: Ctrl-C; of all processes, whichever it reached, after the step at work was saved.
        """
        reporter = self._reporter() if self.world.first else None
        try:
            with Interruption(self.world.size > 1) as interruption:
                self._train(reporter, interruption)
        except RuntimeError as error:
            explained = explain(error, self.config, self.checkpoint.config, self.device, self.world, self.step)
            if explained is None:
                raise
            raise explained from error
        finally:
            if reporter is not None:
                reporter.close()
            self.source.close()
        return self._finish()

    def _train(self, reporter: Reporter | None, interruption: Interruption) -> None:
        config = self.config
        while self.step < config.steps:
            figures = self.train_step()
            last, metrics = self.step == config.steps, None
            if reporter is not None and self._reports(self.step):
                reporter.training(self.step, figures)
            done = False
            if self.step % config.validate_every == 0 or last:
                metrics = self.validate()
                done = self._accurate()
                if reporter is not None:
                    reporter.validation(self.step, figures.loss, metrics, self.source.held_out())
            saves = self.step % config.save_every == 0 or last or done
            if saves:
                self.save_state(metrics if metrics is not None else self.validate())
            if done:
                log.info("accuracy above %g in training: done at step %d", config.stop_at_accuracy, self.step)
                return
            if not last and self.world.any(interruption.asked):
                if not saves:
                    self.save_state()
                log.info("stopped at step %d; the same command goes on from there (%s)", self.step, self.output)
                raise KeyboardInterrupt

    def _accurate(self) -> bool:
        """Whether the training samples since the validation before are known well enough (paper, section 3.4)."""
        recent = self.accuracies[-self.config.validate_every :]
        return 0.0 < self.config.stop_at_accuracy < sum(recent) / max(1, len(recent))

    def train_step(self) -> Figures:
        """One optimizer step on the next batch; returns its figures.

        Raises:
            FloatingPointError: the loss or the gradient is not finite. The batch is saved for a look at it, and nothing
                was changed.
        """
        batch = self.source.next()
        names = self.source.names(batch) if self._reports(self.step + 1) else None
        try:
            figures = self.learner.step(batch, self.step, names)
        except FloatingPointError as error:
            bad = self.output / f"bad_batch_{self.step}_{self.world.rank}.pt"
            torch.save(batch, bad)
            raise FloatingPointError(f"{error}; the batch is in {bad}. Lower learning_rate or clip_norm") from None
        self.step += 1
        self.losses.append(figures.loss)
        self.accuracies.append(figures.accuracy)
        return figures

    def _reports(self, step: int) -> bool:
        return step % self.config.report_every == 0 or step == self.config.steps

    def validate(self) -> Metrics:
        """Figures on held-out samples."""
        return self.learner.validate(self.source.held_out())

    def save_state(self, metrics: Metrics | None = None) -> None:
        """Write what a second run goes on from, with the figures of this step."""
        facts: dict[str, Any] = {
            "step": self.step, "run": self._run(), "losses": self.losses, "accuracies": self.accuracies,
            "source": self.source.state(), "metrics": metrics.to_json() if metrics else None,
        }  # fmt: skip
        place, keep = self.output / "states", self.config.keep_last
        save_state(place, self.model, self.learner.optimizers, facts, self.world, keep)

    def _finish(self) -> Path:
        found = states(self.output / "states")
        best, last = max(found, key=lambda state: state.score), found[-1]
        if best.score > last.score:
            self._load_parameters(best)
            save_result(self.checkpoint, self.config, self.adapter, self.output / "best", self.world)
            self._load_parameters(last)
            log.info("step %d was better in validation: it is in %s", best.facts["step"], self.output / "best")
        return save_result(self.checkpoint, self.config, self.adapter, self.output / "checkpoint", self.world)

    def _load_parameters(self, state: State) -> None:
        load_state(state, self.model, (), self._run(), self.world)

    def _reporter(self) -> Reporter:
        config = self.config
        flops = need(config, self.checkpoint.config, 1, checkpointing=False).flops
        peak, source = peak_rate(self.device, config.precision)
        log.info("MFU counts %.3g TFLOP a sample against %.3g TFLOP/s: %s", flops / 1e12, peak / 1e12, source)
        return Reporter(config, self.output, self.step, flops, peak * self.world.size)

    def _run(self) -> str:
        """What must not change for a run to go on at the exact sample with the same parameters."""
        config = self.config
        rank = f" r={config.lora_rank}" if self.adapter is not None else ""
        return f"{self.source.about}, seed {config.seed}, strategy {config.strategy}{rank}"


class Interruption:
    """Within a `with` block Ctrl-C (SIGINT) is a wish, `asked`; outside of the main thread nothing changes.

    Of a single process the second Ctrl-C ends at once, by KeyboardInterrupt. One of several must not leave the others
    waiting for it: there each is a wish alone.
    """

    def __init__(self, several: bool) -> None:
        self.asked, self._several = False, several

    def __enter__(self) -> Interruption:
        self._mine = threading.current_thread() is threading.main_thread()
        if self._mine:
            self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mine:
            signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self._several:
            raise KeyboardInterrupt
        self.asked = True
