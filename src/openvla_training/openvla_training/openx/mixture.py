"""A mixture: which datasets train a policy, and how often each is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from openvla_evaluation.typed_yaml import read_mapping, validate
from openvla_training.openx.dataset import Dataset
from openvla_training.openx.registry import find, row_values

By = Literal["weight", "share"]


@dataclass(frozen=True)
class Mixture:
    """Datasets with a number each.

    Attributes:
        name: The mixture's name.
        datasets: Number of each dataset; `by` says what it means.
        by: `share`: how often a dataset is drawn, relative to the others. `weight`: how often relative to its size,
            so that its share is in proportion to weight x transitions (reference: rlds/dataset.py).
        until: The part of training (0..1) after which a dataset is dropped; the others receive its share in proportion.
        rows: The mixture's own datasets.
        allow: Datasets that break the curation rules and are used nevertheless.
        table: Shares that a publication states [%], to compare with.
    """

    name: str
    datasets: Mapping[str, float]
    by: By = "weight"
    until: Mapping[str, float] = field(default_factory=dict)
    rows: Mapping[str, Dataset] = field(default_factory=dict)
    allow: Sequence[str] = ()
    table: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        where = f"mixture {self.name!r}"
        if not self.datasets:
            raise ValueError(f"{where}: `datasets` names no dataset")
        for name, number in self.datasets.items():
            if not 0 < number < float("inf"):
                raise ValueError(f"{where}: {name} has the {self.by} {number}; it must be a number greater than 0")
        for name, end in self.until.items():
            if name not in self.datasets:
                raise ValueError(f"{where}: until names {name!r}, which is none of its datasets")
            if not 0 < end < 1:
                raise ValueError(f"{where}: until.{name} is {end}; it must be a part of training, between 0 and 1")
        if set(self.until) == set(self.datasets):
            raise ValueError(f"{where}: until drops every dataset; leave at least one")
        for name in self.datasets:
            reasons = self.row(name).objections()
            if reasons and name not in self.allow:
                raise ValueError(
                    f"{where}: {name} breaks the curation rules: {'; '.join(reasons)}. Remove it, or list it under "
                    "`allow:` to train on it nevertheless"
                )

    def row(self, name: str) -> Dataset:
        """Look a dataset up in the mixture's own rows and the registry."""
        return find(name, self.rows)

    def shares(self, transitions: Mapping[str, int], progress: float = 0.0) -> dict[str, float]:
        """Compute how often each dataset is drawn.

        Args:
            transitions: Number of transitions of each dataset; those without an entry are left out, and the others
                receive their share.
            progress: The part of training that is done, 0..1.

        Returns:
            The shares by name; they add up to 1.
        """
        there = {name: number for name, number in self.datasets.items() if transitions.get(name)}
        if self.by == "weight":
            there = {name: weight * transitions[name] for name, weight in there.items()}
        now = {name: number for name, number in there.items() if progress < self.until.get(name, float("inf"))}
        total = sum(now.values())
        return {name: now.get(name, 0.0) / total for name in there} if total else {}

    def epoch_samples(self, transitions: Mapping[str, int]) -> int:
        """Count the samples of one epoch.

        By weight these are the samples after which every dataset of weight 1 is seen once on average (reference:
        dataset_len); by share, as many as there are transitions.

        Args:
            transitions: Number of transitions of each dataset.

        Returns:
            The number of samples.

        Raises:
            ValueError: None of the datasets has transitions.
        """
        shares = self.shares(transitions)
        if not shares:
            raise ValueError(f"mixture {self.name!r}: none of its datasets is present")
        if self.by == "share":
            return sum(transitions[name] for name in shares)
        whole = [name for name, weight in self.datasets.items() if weight == 1 and name in shares]
        return int(max(transitions[name] / shares[name] for name in (whole or shares)))


def load_mixture(name: Path | str) -> Mixture:
    """Read a mixture.

    Args:
        name: A YAML file, the name of one in config/mixtures, or the name of a single dataset.

    Returns:
        The mixture.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There is no mixture or dataset of that name, or the file is wrong.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        shipped = mixtures_folder() / f"{name}.yaml"
        if not shipped.exists():
            known = ", ".join(sorted(p.stem for p in mixtures_folder().glob("*.yaml")))
            try:
                find(str(name))
            except ValueError as error:
                raise ValueError(f"{error}; mixtures: {known}") from None
            return Mixture(str(name), {str(name): 1.0}, allow=(str(name),))
        path = shipped
    return from_yaml(read_mapping(path), path.stem, str(path))


def from_yaml(values: Mapping[str, Any], name: str, where: str) -> Mixture:
    """Build a mixture from the content of a YAML file.

    Args:
        values: The content.
        name: The mixture's name.
        where: The file, which begins each error message.

    Returns:
        The mixture.

    Raises:
        ValueError: A key or a value is wrong.
    """
    values = {key: value for key, value in values.items() if value is not None}  # a key without a value is left out
    if isinstance(rows := values.get("rows"), Mapping):
        values["rows"] = {key: row_values(str(key), row, f"{where}: rows.{key}") for key, row in rows.items()}
    return validate(Mixture, values, where, name=name)


def mixtures_folder() -> Path:
    """Return config/mixtures of the workspace: of $OPENVLA_HOME, or of the repository that holds this file."""
    home = os.environ.get("OPENVLA_HOME")
    root = Path(home) if home else Path(__file__).resolve().parents[4]
    return root / "config" / "mixtures"
