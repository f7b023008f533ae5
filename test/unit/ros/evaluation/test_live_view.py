"""The demo's table of episodes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from openvla_evaluation.plan import Trial
from openvla_evaluation.report.outcomes import SUCCESS, WRONG, Episode, Step
from openvla_ros.evaluation.live_view import LiveTable

TRIAL = Trial(1_000_005, "lift the red cube", "red")


def episode(outcome: str, *lifted: str) -> Episode:
    return Episode(1, TRIAL.seed, TRIAL.instruction, TRIAL.target, outcome, "", lifted, 8, 4.0, (0.1, 0.3), (0.1, 0.2))


@pytest.fixture
def log() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def test_log_has_one_line_for_each_finished_episode(log: Console) -> None:
    with LiveTable(3, "OpenVLA", console=log) as table:
        table.start(1, TRIAL)
        table.finish(episode(SUCCESS, "red"))
    assert log.file.getvalue() == (  # type: ignore[attr-defined]
        "episode 1/3  seed 1000005  'lift the red cube'  8 steps  2.0 Hz  latency 200 ms  success\n"
    )


def test_seed_is_printed_as_the_user_counts_it(log: Console) -> None:
    with LiveTable(3, "OpenVLA", first_seed=1_000_000, console=log) as table:
        table.finish(episode(SUCCESS, "red"))
    assert "seed 1000000+5 " in log.file.getvalue()  # type: ignore[attr-defined]


def test_wrong_object_is_named(log: Console) -> None:
    with LiveTable(3, "OpenVLA", console=log) as table:
        table.finish(episode(WRONG, "blue"))
    assert log.file.getvalue().endswith("wrong object: blue\n")  # type: ignore[attr-defined]


def test_terminal_displays_reset_and_progress(terminal: Console) -> None:
    with LiveTable(3, "OpenVLA", console=terminal) as table:
        table.start(1, TRIAL)
        table.step(1, TRIAL, 4, Step((), np.zeros(7), 0.1, 2.5))
        table.finish(episode(SUCCESS, "red"))
    assert "success so far: 1/1" in terminal.file.getvalue()  # type: ignore[attr-defined]
