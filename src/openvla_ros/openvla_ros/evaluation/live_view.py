"""The demo's live table in a terminal (plain lines elsewhere) and its optional window."""

from __future__ import annotations

from types import TracebackType

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from openvla_evaluation.plan import Trial
from openvla_evaluation.report.outcomes import INTERRUPTED, SUCCESS, Episode, Step, success_rate

SHOWN_ROWS = 14
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
    """Rows of finished episodes and the running one. Not a terminal: one line for each finished episode."""

    def __init__(self, total: int, title: str, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._total, self._title = total, title
        self._done: list[Episode] = []
        self._running: tuple[int, Trial, int, Step] | None = None
        self._live = Live(self._table(), console=self.console, refresh_per_second=5, transient=False)

    def __enter__(self) -> LiveTable:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = None
        if self.console.is_terminal:
            self._live.update(self._table())
            self._live.stop()

    def step(self, number: int, trial: Trial, count: int, step: Step) -> None:
        """Show how far the running episode is."""
        self._running = (number, trial, count, step)
        if self.console.is_terminal:
            self._live.update(self._table())

    def finish(self, episode: Episode) -> None:
        """Show an episode's outcome."""
        self._done.append(episode)
        self._running = None
        if self.console.is_terminal:
            self._live.update(self._table())
            return
        latency = 1000 * float(np.mean(episode.latencies)) if episode.latencies else 0.0
        self.console.print(
            f"episode {episode.index}/{self._total}  seed {episode.seed}  {episode.instruction!r}  "
            f"{episode.count} steps  {episode.rate:.1f} Hz  latency {latency:.0f} ms  {_verdict(episode)}",
            soft_wrap=True,
        )

    def _table(self) -> Table:
        table = Table(title=self._title, title_justify="left", expand=False)
        for name, justify in COLUMNS:
            table.add_column(name, justify=justify, no_wrap=name != "instruction")  # type: ignore[arg-type]
        for episode in self._done[-SHOWN_ROWS:]:
            latency = 1000 * float(np.mean(episode.latencies)) if episode.latencies else 0.0
            colour = "green" if episode.outcome == SUCCESS else "yellow" if not episode.counted else "red"
            table.add_row(
                f"{episode.index}/{self._total}", str(episode.seed), episode.instruction, str(episode.count),
                f"{episode.rate:.1f}", f"{latency:.0f} ms", f"[{colour}]{_verdict(episode)}[/]",
            )  # fmt: skip
        if self._running:
            number, trial, count, step = self._running
            table.add_row(
                f"{number}/{self._total}",
                str(trial.seed),
                trial.instruction,
                str(count),
                f"{step.rate:.1f}" if step.rate else "",
                f"{1000 * step.latency:.0f} ms",
                "[cyan]running[/]",
            )
        table.caption = f"success so far: {success_rate(self._done)}" if self._done else None
        return table


def _verdict(episode: Episode) -> str:
    if episode.lifted and episode.outcome not in (SUCCESS, INTERRUPTED):
        return f"{episode.outcome}: {' + '.join(episode.lifted)}"
    return episode.outcome
