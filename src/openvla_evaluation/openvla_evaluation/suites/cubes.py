"""The task of the simulated bench, "lift the named cube": the one place for its sentences and its seeds."""

from __future__ import annotations

import re

import numpy as np

OBJECTS = ("red", "green", "blue")

# Demonstrations come from seeds below the boundary, every evaluation from seeds at or above it, so that no
# reported episode starts from an initial state that was trained on.
EVALUATION_SEED = 1_000_000
TRAINING_SEEDS = range(0, EVALUATION_SEED)
EVALUATION_SEEDS = range(EVALUATION_SEED, 2**31)

# The first template is the one that evaluations use when nothing else is asked for.
TEMPLATES = (
    "lift the {object} cube",
    "pick up the {object} cube",
    "raise the {object} cube",
    "grab the {object} cube and lift it",
    "lift the {object} block",
    "pick up the {object} block",
    "raise the {object} block",
    "take the {object} cube",
)


def target_for(seed: int) -> str:
    """The cube an episode of `seed` is about: seeds in a row take turns, so every range is balanced."""
    return OBJECTS[seed % len(OBJECTS)]


def instruction_for(target: str, rng: np.random.Generator | None = None) -> str:
    """A sentence about `target`: the first template, or a random paraphrase when `rng` is given."""
    if target not in OBJECTS:
        raise ValueError(f"unknown object {target!r}; the scene has {', '.join(OBJECTS)}")
    template = TEMPLATES[0] if rng is None else TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    return template.format(object=target)


def instruction_of_seed(seed: int, target: str | None = None) -> str:
    """The paraphrase that an episode of `seed` is given: the same one on every machine and every run.

    With `target`: the same paraphrase about that cube instead of the one the seed is about.
    """
    return instruction_for(target or target_for(seed), np.random.default_rng([seed, len(TEMPLATES)]))


def target_of(instruction: str) -> str:
    """The one object that `instruction` names.

    Raises ValueError when it names none or several: such an episode could not be judged.
    """
    words = re.findall(r"[a-z]+", instruction.lower())
    named = [name for name in OBJECTS if name in words]
    if len(named) != 1:
        what = "none" if not named else " and ".join(named)
        raise ValueError(f"instruction {instruction!r} names {what} of the cubes; name one of {', '.join(OBJECTS)}")
    return named[0]
