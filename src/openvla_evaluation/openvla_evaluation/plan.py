"""Which episodes an evaluation runs: its settings (config/evaluation/*.yaml) and the trials they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from openvla_evaluation.suites import cubes

RANGES = {
    "episodes": (1, 100_000),
    "seed": (0, 2**31 - 1),
    "paired": (0, 100_000),
    "max_steps": (1, 10_000),
    "stall": (1.0, 3600.0),
}


@dataclass(frozen=True)
class Suite:
    """Settings of an evaluation. A seed below the first evaluation seed counts from there."""

    episodes: int = 10
    seed: int = 0  # of the first episode; the others follow
    instruction: str = ""  # '' = each episode its own cube, in the words of suites/cubes.TEMPLATES
    paired: int = 0  # > 0: that many start states, each with one instruction for every cube
    max_steps: int = 60  # actions
    stall: float = 60.0  # wall-clock time without an action after which an episode is a fault [s]

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value}; it must be {low} to {high}")
        if self.instruction:
            cubes.target_of(self.instruction)

    @property
    def first_seed(self) -> int:
        """Seed of the first episode, in the range for evaluation."""
        return self.seed if self.seed in cubes.EVALUATION_SEEDS else cubes.EVALUATION_SEED + self.seed

    def with_options(self, options: Mapping[str, Any]) -> Suite:
        """These settings with those of `options` that are not None."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})


@dataclass(frozen=True)
class Trial:
    """One episode to run."""

    seed: int
    instruction: str
    target: str


def load_suite(path: Path) -> Suite:
    """Read a suite from YAML. Raises ValueError naming the file and what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except OSError as error:
        raise ValueError(f"cannot read the evaluation settings {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    known = {item.name: item for item in fields(Suite)}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a mapping of {', '.join(known)}")
    for name, value in content.items():
        if name not in known:
            raise ValueError(f"{path}: unknown key {name!r}; choose from {', '.join(known)}")
        wanted = type(known[name].default)
        if wanted is float and type(value) is int:
            content[name] = value = float(value)
        if type(value) is not wanted:
            raise ValueError(f"{path}: {name} is {value!r}; it must be of type {wanted.__name__}")
    try:
        return Suite(**content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def trials(suite: Suite) -> list[Trial]:
    """The episodes in the order in which they run."""
    first = suite.first_seed
    if suite.paired:
        return [
            Trial(seed, cubes.instruction_for(target), target)
            for seed in range(first, first + suite.paired)
            for target in cubes.OBJECTS
        ]
    made = []
    for seed in range(first, first + suite.episodes):
        instruction = suite.instruction or cubes.instruction_of_seed(seed)
        made.append(Trial(seed, instruction, cubes.target_of(instruction)))
    return made
