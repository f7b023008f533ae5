"""Which datasets train a policy, and how often each is drawn."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from openvla_training.openx.dataset import Dataset
from openvla_training.openx.registry import find, from_mapping

By = Literal["weight", "share"]


@dataclass(frozen=True)
class Mixture:
    """Datasets with a number each.

    by: what the numbers are: `share`, how often a dataset is drawn compared with the others, or `weight`, how often
    compared with its size: its share is in proportion to weight x transitions (reference: rlds/dataset.py).
    until: the part of training (0..1) after which a dataset is dropped; its share goes to the others in proportion.
    rows: the mixture's own datasets. allow: datasets that break the curation rules and are used all the same.
    table: shares that a publication prints [%], to be shown beside the others.
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
            raise ValueError(f"{where}: it names no dataset")
        if self.by not in get_args(By):
            raise ValueError(f"{where}: by: {self.by!r} is unknown; choose one of {', '.join(get_args(By))}")
        for name, number in self.datasets.items():
            if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < float("inf"):
                raise ValueError(f"{where}: {name}: {number!r} is no {self.by}; it must be a number greater than 0")
        for name, end in self.until.items():
            if name not in self.datasets:
                raise ValueError(f"{where}: until: {name!r} is none of its datasets")
            if not isinstance(end, int | float) or not 0 < end < 1:
                raise ValueError(f"{where}: until: {name}: {end!r} is no part of training; choose between 0 and 1")
        if set(self.until) == set(self.datasets):
            raise ValueError(f"{where}: until drops every dataset; leave at least one")
        for name in self.datasets:
            reasons = self.row(name).objections()
            if reasons and name not in self.allow:
                raise ValueError(
                    f"{where}: {name} breaks the curation rules: {'; '.join(reasons)}. Take it out, or list it under "
                    "`allow:` to train on it all the same"
                )

    def row(self, name: str) -> Dataset:
        """The registry's row of a dataset, or the mixture's own."""
        return find(name, self.rows)

    def shares(self, transitions: Mapping[str, int], progress: float = 0.0) -> dict[str, float]:
        """How often each dataset is drawn, adding up to 1, when `progress` (0..1) of training is done.

        Datasets without an entry in `transitions` are left out, their share going to the others.
        """
        there = {name: number for name, number in self.datasets.items() if transitions.get(name)}
        if self.by == "weight":
            there = {name: weight * transitions[name] for name, weight in there.items()}
        now = {name: number for name, number in there.items() if progress < self.until.get(name, float("inf"))}
        total = sum(now.values())
        return {name: now.get(name, 0.0) / total for name in there} if total else {}

    def epoch_samples(self, transitions: Mapping[str, int]) -> int:
        """What counts as one epoch: by weight, the samples after which every dataset of weight 1 was seen once on
        average (reference: dataset_len); by share, as many samples as there are transitions.
        """
        shares = self.shares(transitions)
        if not shares:
            raise ValueError(f"mixture {self.name!r}: none of its datasets is there")
        if self.by == "share":
            return sum(transitions[name] for name in shares)
        whole = [name for name, weight in self.datasets.items() if weight == 1 and name in shares]
        return int(max(transitions[name] / shares[name] for name in (whole or shares)))


def load_mixture(name: Path | str) -> Mixture:
    """Read a mixture: a YAML file, the name of one in config/mixtures, or the name of a single dataset.

    Raises:
        ValueError: the file is wrong, with what and how to mend it. FileNotFoundError: there is none.
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
    loaded = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(loaded, dict):
        raise ValueError(f"{path}: expected a mapping with `datasets:`, found {type(loaded).__name__}")
    return from_yaml(loaded, path.stem, str(path))


def from_yaml(values: Mapping[str, Any], name: str, where: str) -> Mixture:
    """A mixture out of what YAML holds."""
    known = ("by", "datasets", "until", "rows", "allow", "table")
    for key in values:
        if key not in known:
            raise ValueError(f"{where}: unknown entry {key!r}; the entries are {', '.join(known)}")
    for key in ("datasets", "until", "rows", "table"):
        if not isinstance(values.get(key) or {}, Mapping):
            raise ValueError(f"{where}: {key}: expected one `name: value` a line, found {values[key]!r}")
    rows = {str(key): from_mapping(str(key), row, f"{where}: rows") for key, row in (values.get("rows") or {}).items()}
    try:
        return Mixture(
            name=name,
            datasets=values.get("datasets") or {},
            by=values.get("by", "weight"),
            until=values.get("until") or {},
            rows=rows,
            allow=tuple(values.get("allow") or ()),
            table=values.get("table") or {},
        )
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def mixtures_folder() -> Path:
    """config/mixtures of the workspace ($OPENVLA_HOME, or the one this file lies in)."""
    home = os.environ.get("OPENVLA_HOME")
    root = Path(home) if home else Path(__file__).resolve().parents[4]
    return root / "config" / "mixtures"
