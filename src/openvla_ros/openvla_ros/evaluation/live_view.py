"""The demo's table of episodes: live in a terminal, one line for each finished episode elsewhere."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from openvla_evaluation.plan import Trial
from openvla_evaluation.report.outcomes import INTERRUPTED, SUCCESS, Episode, Step, success_rate

FINISHED_ROWS = 14  # of the newest episodes
COLUMNS = (
    ("episode", "right"),
    ("seed", "right"),
    ("instruction", "left"),
    ("step", "right"),
    ("policy Hz", "right"),
    ("latency", "right"),
    ("outcome", "left"),
)


class LiveTable:
    """Rows of the finished episodes and the running one.

    Args:
        total: Number of episodes of the run.
        title: Who acts.
        first_seed: What the seeds are counted from; displayed as `first_seed+n`.
        console: Where to print; default: standard output.
    """

    def __init__(self, total: int, title: str, first_seed: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._total, self._title, self._first_seed = total, title, first_seed
        self._done: list[Episode] = []
        self._running: tuple[str, ...] | None = None
        self._live = Live(self._table(), console=self.console, refresh_per_second=5, transient=False)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        self._update()
        if self.console.is_terminal:
            self._live.stop()

    def start(self, number: int, trial: Trial) -> None:
        """Display an episode whose scene is being reset."""
        self._running = (*self._head(number, trial), "", "", "", "[cyan]resetting the scene[/]")
        self._update()

    def step(self, number: int, trial: Trial, count: int, step: Step) -> None:
        """Display the progress of the running episode."""
        rate = f"{step.rate:.1f}" if step.rate else ""
        latency = f"{1000 * step.latency:.0f} ms"
        self._running = (*self._head(number, trial), str(count), rate, latency, "[cyan]running[/]")
        self._update()

    def finish(self, episode: Episode) -> None:
        """Display an episode's outcome."""
        self._done.append(episode)
        self._running = None
        self._update()
        if not self.console.is_terminal:
            self.console.print(
                f"episode {episode.index}/{self._total}  seed {self._seed(episode.seed)}  {episode.instruction!r}  "
                f"{episode.count} steps  {episode.rate:.1f} Hz  latency {_latency(episode)}  {_verdict(episode)}",
                soft_wrap=True,
            )

    def _update(self) -> None:
        if self.console.is_terminal:
            self._live.update(self._table())

    def _head(self, number: int, trial: Trial) -> tuple[str, str, str]:
        return f"{number}/{self._total}", self._seed(trial.seed), trial.instruction

    def _seed(self, seed: int) -> str:
        """The scene's seed as the user counts it: 1000005 is 1000000+5 when --seed was 5."""
        return f"{self._first_seed}+{seed - self._first_seed}" if self._first_seed else str(seed)

    def _table(self) -> Table:
        table = Table(title=self._title, title_justify="left", expand=False)
        for name, justify in COLUMNS:
            table.add_column(name, justify=justify, no_wrap=name != "instruction")  # type: ignore[arg-type]
        for episode in self._done[-FINISHED_ROWS:]:
            colour = "green" if episode.outcome == SUCCESS else "yellow" if not episode.counted else "red"
            table.add_row(
                f"{episode.index}/{self._total}", self._seed(episode.seed), episode.instruction, str(episode.count),
                f"{episode.rate:.1f}", _latency(episode), f"[{colour}]{_verdict(episode)}[/]",
            )  # fmt: skip
        if self._running:
            table.add_row(*self._running)
        table.caption = f"success so far: {success_rate(self._done)}" if self._done else None
        return table


def _latency(episode: Episode) -> str:
    return f"{1000 * float(np.mean(episode.latencies)) if episode.latencies else 0.0:.0f} ms"


def _verdict(episode: Episode) -> str:
    if episode.lifted and episode.outcome not in (SUCCESS, INTERRUPTED):
        return f"{episode.outcome}: {' + '.join(episode.lifted)}"
    return episode.outcome
