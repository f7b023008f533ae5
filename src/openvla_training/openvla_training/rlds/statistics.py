"""dataset_statistics.json, which un-normalises a policy's actions, computed as in the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from openvla_policy.contract.statistics import Statistics, compute
from openvla_training.rlds.reader import find_dataset, read_episodes
from openvla_training.rlds.writer import write_atomically

FILE = "dataset_statistics.json"


def dataset_statistics(folders: Sequence[Path | str]) -> Statistics:
    """Compute statistics of actions and states over all episodes, train and val together as in the reference.

    Args:
        folders: The datasets.

    Returns:
        Statistics without a mask: the user decides which dimensions stay unnormalised (the gripper).
    """
    actions, states = [], []
    for folder in folders:
        for episode in read_episodes(folder, split="all"):
            actions.append(episode.actions)
            states.append(episode.states)
    return compute(actions, states)


def write_statistics(folder: Path | str) -> Path:
    """Write dataset_statistics.json, {dataset name: statistics}, beside the shards; returns its path."""
    folder = find_dataset(folder)
    path = folder / FILE
    write_atomically(path, json.dumps({folder.parent.name: dataset_statistics([folder]).to_json()}, indent=2) + "\n")
    return path


def read_statistics(folder: Path | str) -> Statistics:
    """Read dataset_statistics.json of a dataset."""
    path = find_dataset(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; write it with: openvla-stats {path.parent}")
    ((name, entry),) = json.loads(path.read_text("utf-8")).items()
    return Statistics.from_json(entry, f"{path}: {name}")
