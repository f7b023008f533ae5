"""dataset_statistics.json: what un-normalises a policy's actions, measured as the reference measures it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from openvla_policy.contract.statistics import Statistics, compute
from openvla_training.rlds.reader import find_dataset, read_episodes
from openvla_training.rlds.writer import write_atomically

FILE = "dataset_statistics.json"


def dataset_statistics(folders: Sequence[Path | str]) -> Statistics:
    """Measure actions and states over all episodes of the datasets, train and val together as the reference does.

    No mask is set: which dimensions stay as they are (the gripper) is the consumer's choice.
    """
    actions, states = [], []
    for folder in folders:
        for episode in read_episodes(folder, split="all"):
            actions.append(episode.actions)
            states.append(episode.states)
    return compute(actions, states)


def write_statistics(folder: Path | str) -> Path:
    """Write ``dataset_statistics.json``, {dataset name: statistics}, beside the dataset's shards."""
    folder = find_dataset(folder)
    path = folder / FILE
    write_atomically(path, json.dumps({folder.parent.name: dataset_statistics([folder]).to_json()}, indent=2) + "\n")
    return path


def read_statistics(folder: Path | str) -> Statistics:
    """Read a dataset's statistics file."""
    path = find_dataset(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; make it with: openvla-stats {path.parent}")
    ((name, entry),) = json.loads(path.read_text("utf-8")).items()
    return Statistics.from_json(entry, f"{path}: {name}")
