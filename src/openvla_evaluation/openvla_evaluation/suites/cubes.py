"""The task of the simulated bench, "lift the named cube": its objects, its sentences and its seeds."""

from __future__ import annotations

import re

import numpy as np

OBJECTS = ("red", "green", "blue")

# Demonstrations use seeds below the boundary, evaluations seeds at or above it: no reported episode starts from an
# initial state that was trained on.
EVALUATION_SEED = 1_000_000
TRAINING_SEEDS = range(0, EVALUATION_SEED)
EVALUATION_SEEDS = range(EVALUATION_SEED, 2**31)

# Evaluations without an instruction of their own in paired trials use the first template.
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
    """Return the cube of an episode: consecutive seeds take turns, so that every range of seeds is balanced."""
    return OBJECTS[seed % len(OBJECTS)]


def instruction_for(target: str, rng: np.random.Generator | None = None) -> str:
    """Phrase the instruction to lift a cube.

    Args:
        target: One of `OBJECTS`.
        rng: Draws one of the templates; None takes the first one.

    Returns:
        The sentence.

    Raises:
        ValueError: The scene has no such object.
    """
    if target not in OBJECTS:
        raise ValueError(f"unknown object {target!r}; the scene has {', '.join(OBJECTS)}")
    template = TEMPLATES[0] if rng is None else TEMPLATES[int(rng.integers(len(TEMPLATES)))]
    return template.format(object=target)


def instruction_of_seed(seed: int, target: str | None = None) -> str:
    """Phrase the instruction of an episode: the same sentence on every machine and in every run.

    Args:
        seed: The episode's seed, which selects the template.
        target: The cube to name; None for the one of the seed.

    Returns:
        The sentence.
    """
    return instruction_for(target or target_for(seed), np.random.default_rng([seed, len(TEMPLATES)]))


def target_of(instruction: str) -> str:
    """Find the one object that an instruction names.

    Args:
        instruction: A sentence in any wording.

    Returns:
        One of `OBJECTS`.

    Raises:
        ValueError: It names none or several, so that the episode could not be judged.
    """
    words = re.findall(r"[a-z]+", instruction.lower())
    named = [name for name in OBJECTS if name in words]
    if len(named) != 1:
        what = "none" if not named else " and ".join(named)
        raise ValueError(f"instruction {instruction!r} names {what} of the cubes; name one of {', '.join(OBJECTS)}")
    return named[0]
