"""Statistics that normalise a dataset's actions, cached until its data or their standardisation change."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from rich.progress import track

from openvla_policy.contract.statistics import Statistics, compute
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.source import EpisodeSource, fingerprint
from openvla_training.openx.standardise import Trajectory, standardise
from openvla_training.rlds.reader import find_dataset
from openvla_training.rlds.writer import write_atomically

log = logging.getLogger(__name__)
NORMALISED = (True,) * 6 + (False,)  # the gripper already is 0 to 1
VERSION = 2  # increase it when standardisation computes other numbers


def dataset_statistics(row: Dataset, folder: Path | str) -> Statistics:
    """Return statistics over all splits of a dataset, from the cache where neither data nor standardisation changed.

    The cache lies beside the shards, or, where that folder is not writable, in $OPENVLA_CACHE (default
    ~/.cache/openvla).

    Args:
        row: The dataset's row.
        folder: The dataset's folder.

    Returns:
        The statistics; the gripper is masked out of normalisation.
    """
    folder = find_dataset(folder)
    name = f"openx_statistics_{_hash(row, folder)}.json"
    for place in (folder, _home()):
        if (place / name).exists():
            return Statistics.from_json(json.loads((place / name).read_text("utf-8")), str(place / name))
    statistics = measure(row, folder)
    text = json.dumps(statistics.to_json(), indent=1) + "\n"
    try:
        write_atomically(folder / name, text)
    except OSError:
        _home().mkdir(parents=True, exist_ok=True)
        write_atomically(_home() / name, text)
    return statistics


def measure(row: Dataset, folder: Path | str) -> Statistics:
    """Compute statistics of the standardised actions and states of all episodes.

    Args:
        row: The dataset's row.
        folder: The dataset's folder.

    Returns:
        The statistics; the gripper is masked out of normalisation.

    Raises:
        ValueError: The row's filters keep no step.
    """
    actions, states = [], []
    for trajectory in _trajectories(row, folder):
        if len(trajectory.actions):
            actions.append(trajectory.actions)
            states.append(trajectory.states)
    if not actions:
        raise ValueError(f"dataset {row.name!r} in {folder} has no step that its filters keep; check its row")
    return compute(actions, [s for s in states if s is not None] if row.state else None, NORMALISED)


def _trajectories(row: Dataset, folder: Path | str) -> Iterator[Trajectory]:
    success = ["success"] if "success" in row.filters else []
    source = EpisodeSource(folder, "all", sorted(row.keys), success)
    for index in track(range(len(source)), f"statistics of {row.name}", transient=True, disable=len(source) < 1000):
        steps, flags = source[index]
        if flags.get("success", True):
            yield standardise(row, steps)


def _hash(row: Dataset, folder: Path) -> str:
    what = [VERSION, fingerprint(folder), row.action, row.state, row.filters, repr(row.gripper)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def _home() -> Path:
    return Path(os.environ.get("OPENVLA_CACHE", Path.home() / ".cache" / "openvla"))
