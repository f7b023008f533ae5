"""Progress of a long run of episodes: a bar in a terminal, a line now and then in a log."""

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

LOG_INTERVAL = 30.0  # [s] between two lines where there is no terminal


class ProgressReport:
    """Episodes recorded, success, rate, remaining time and free disk space.

    Args:
        total: Episodes of the data set.
        already: Episodes recorded by earlier runs.
        folder: Where the bags are; its disk is reported.
    """

    def __init__(self, total: int, already: int, folder: Path) -> None:
        self.console = Console(highlight=False)
        self._folder, self._total, self._already = folder, total, already
        self._started = self._logged = time.monotonic()
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

    def print(self, line: str) -> None:
        """Print a line above the bar."""
        self.console.print(line, soft_wrap=True)

    def update(self, kept: int, succeeded: int) -> None:
        """Display the episodes that this run has recorded, and how many of them succeeded."""
        hourly = 3600 * kept / max(1e-9, time.monotonic() - self._started)
        free = shutil.disk_usage(self._folder).free / 2**30
        rate = f"{succeeded}/{kept} lifted, {hourly:.0f}/h, {free:.0f} GiB free"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self._already + kept, rate=rate)
        elif time.monotonic() - self._logged > LOG_INTERVAL:
            self._logged = time.monotonic()
            left = (self._total - self._already - kept) / hourly if hourly else None
            remaining = f"{60 * left:.0f} min left" if left is not None else "starting"
            self.print(f"{self._already + kept}/{self._total} recorded, {rate}, {remaining}")
