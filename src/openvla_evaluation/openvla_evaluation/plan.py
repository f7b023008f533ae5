"""Which episodes an evaluation runs: its settings (config/evaluation/*.yaml) and the trials they describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from openvla_evaluation.suites import cubes
from openvla_evaluation.typed_yaml import read_mapping, validate

RANGES = {
    "episodes": (1, 100_000),
    "seed": (0, 2**31 - 1),
    "paired": (0, 100_000),
    "max_steps": (1, 10_000),
    "stall": (1.0, 3600.0),
}


@dataclass(frozen=True)
class Suite:
    """Settings of an evaluation."""

    episodes: int = 10
    seed: int = 0  # of the first episode, the others follow; below EVALUATION_SEED it counts from there
    instruction: str = ""  # '' = each episode its own cube, in one of the wordings of suites/cubes.TEMPLATES
    paired: int = 0  # > 0: that many start states, each with one instruction for every cube
    max_steps: int = 60  # actions
    stall: float = 60.0  # time without an action after which an episode is a fault [s, wall clock]

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
        """Replace the settings that `options` names by those of its values that are not None."""
        return replace(self, **{name: value for name, value in options.items() if value is not None})


@dataclass(frozen=True)
class Trial:
    """One episode to run: the initial state by its seed, the instruction, and the object it names."""

    seed: int
    instruction: str
    target: str


def load_suite(path: Path) -> Suite:
    """Read a suite from YAML.

    Args:
        path: The file; keys that it leaves out have the defaults of :class:`Suite`.

    Returns:
        The suite.

    Raises:
        ValueError: The file cannot be read, or a key or a value is wrong.
    """
    try:
        return validate(Suite, read_mapping(path), str(path))
    except FileNotFoundError as error:
        raise ValueError(f"cannot read the evaluation settings {path}: {error.strerror}") from error


def trials(suite: Suite) -> list[Trial]:
    """List the episodes of a suite in the order in which they run."""
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
