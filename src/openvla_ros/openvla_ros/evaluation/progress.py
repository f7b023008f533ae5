"""Progress of a long run of episodes, in the terminal or in a log."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

QUIET_EVERY = 30.0  # [s] between two lines where there is no terminal


class ProgressReport:
    """A bar with rate, remaining time and disk in a terminal, a line now and then elsewhere."""

    def __init__(self, total: int, already: int, folder: Path) -> None:
        self._folder = folder
        self.console = Console(highlight=False)
        self._total, self._already, self._started, self._told = (
            total,
            already,
            time.monotonic(),
            time.monotonic(),
        )
        self._bar = Progress(
            TextColumn("recording"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self._task = self._bar.add_task("recording", total=total, completed=already, rate="")

    def __enter__(self) -> ProgressReport:
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.console.is_terminal:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(line, soft_wrap=True)

    def update(self, kept: int, succeeded: int) -> None:
        """Show how far this run is."""
        hourly = 3600 * kept / max(1e-9, time.monotonic() - self._started)
        free = shutil.disk_usage(self._folder).free / 2**30
        rate = f"{succeeded}/{kept} lifted, {hourly:.0f}/h, {free:.0f} GiB free"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._already + kept, rate=rate)
        elif time.monotonic() - self._told > QUIET_EVERY:
            self._told = time.monotonic()
            left = (self._total - self._already - kept) / hourly if hourly else None
            remaining = f"{60 * left:.0f} min left" if left is not None else "starting"
            self.say(f"{self._already + kept}/{self._total} recorded, {rate}, {remaining}")
