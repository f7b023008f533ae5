"""What one training run is: a dataclass read from YAML, with `key=value` overrides from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml


def option(default: Any, meaning: str, unit: str = "") -> Any:
    """A field of the configuration, whose meaning and unit the help and the reference page print."""
    return field(default=default, metadata={"meaning": meaning, "unit": unit})


def _group(default: Any, meaning: str) -> Any:
    return field(default_factory=default, metadata={"meaning": meaning, "unit": ""})


@dataclass(frozen=True)
class AugmentConfig:
    """Ranges as in the reference; None or 0 switches an operation off."""

    crop_area: tuple[float, float] | None = (0.9, 0.9)  # share of the area that is kept, drawn between these
    brightness: float = 0.2  # largest offset
    contrast: tuple[float, float] | None = (0.8, 1.2)
    saturation: tuple[float, float] | None = (0.8, 1.2)
    hue: float = 0.05  # largest shift, in turns


@dataclass(frozen=True)
class TrainConfig:
    """Defaults are the paper's (lr 2e-5 constant, no warm-up, no weight decay, clipping at 1)."""

    output: str = field(
        metadata={"meaning": "folder for checkpoints, curves, plots and resume states (see what a run leaves)"}
    )
    # ---- data
    data: tuple[str, ...] = option((), "RLDS dataset folders (as tfds.builder_from_directory takes them) or parents")
    dataset_name: str = option("", "with data: the name of the joint statistics, the policy's unnorm_key")
    sentences: str | None = option(None, "with data: a regular expression; only episodes whose sentence has it")
    demonstrations: int = option(0, "with data: train on the first so many episodes of them; 0: all", "episodes")
    mixture: str | None = option(None, "instead of data: a file or name of config/mixtures; statistics by dataset")
    data_dir: str | None = option(None, "with mixture: the folder that holds its datasets")
    wording: Literal["first", "any"] = option(
        "first", "with mixture: of several sentences for an episode (DROID) the first, or one drawn each time"
    )
    lanes: int = option(1, "with mixture: parts a batch is dealt out over; any number of processes that divides it")
    shuffle_mib: int = option(1024, "with mixture: encoded pictures that a lane shuffles among", "MiB")
    decoders: int = option(2, "with mixture: threads of a process that decode and resize")
    # ---- model
    checkpoint: str | None = option(None, "folder or hub id to start from; null: fresh weights of the shape `model`")
    model: Mapping[str, Any] = _group(dict, "fresh weights: arguments of openvla_policy.model.config.tiny")
    vocabulary: int = option(512, "fresh weights: tokens before the 256 action tokens", "tokens")
    ordinal_tokens: bool = option(False, "fresh action tokens start as smooth functions of their bin centre")
    strategy: Literal["full", "last_layer", "frozen_vision", "sandwich", "lora", "qlora"] = option(
        "full", "which parameters are trained (the paper's Table 1)"
    )
    lora_rank: int = option(32, "rank of the adapters of lora and qlora")
    lora_alpha: int | None = option(None, "scale of the adapters; null: min(lora_rank, 16), the reference's")
    lora_dropout: float = option(0.0, "before the adapters", "share")
    # ---- how long
    steps: int = option(200_000, "how long to train", "optimizer steps")
    epochs: float = option(0.0, "how long to train instead of steps; 0: steps count", "passes over the data")
    stop_at_accuracy: float = option(
        0.0, "of training's action tokens since the last validation, above which training ends; 0: never", "share"
    )
    batch_size: int = option(16, "of a step, over all processes and micro-batches", "samples")
    micro_batch_size: int = option(0, "of one process's forward pass, gradients add up; 0: all it has", "samples")
    # ---- optimizer
    optimizer: Literal["adamw", "adamw8bit", "muon"] = option(
        "adamw", "adamw8bit: states in 8 bits (bitsandbytes); muon: for the hidden matrices of small models"
    )
    learning_rate: float = option(2e-5, "after the warm-up")
    final_learning_rate: float | None = option(None, "at the last step (cosine); null: learning_rate, so constant")
    decay_from: float = option(0.0, "after which the rate falls", "share of the steps")
    warmup_steps: int = option(0, "in which the rate rises from 0", "steps")
    weight_decay: float = option(0.0, "pull towards 0 a step, times the rate")
    betas: tuple[float, float] = option((0.9, 0.999), "of AdamW")
    clip_norm: float = option(1.0, "greatest norm of all gradients together")
    label_sigma: float = option(0.0, "spread of a target over its neighbours; 0: plain cross-entropy", "bins")
    # ---- speed and memory
    precision: Literal["fp32", "bf16"] = option("bf16", "of the matrix products; trained weights stay fp32")
    activation_checkpointing: bool = option(False, "forget activations within each layer and compute them again")
    compile: bool = option(False, "compile each layer with torch.compile: minutes at the start, faster steps")
    device: str = option("auto", "cpu, cuda, or auto: cuda where there is one")
    threads: int = option(0, "of the CPU; 0: what torch chooses")
    # ---- images
    augment: AugmentConfig | None = _group(AugmentConfig, "image augmentation (below); null: none")
    # ---- watching and keeping
    report_every: int = option(20, "between points of the training curves", "steps")
    validate_every: int = option(500, "between validations (figures, plots)", "steps")
    save_every: int = option(500, "between resume states", "steps")
    keep_last: int = option(2, "resume states that are kept, besides the best one")
    wandb: str | None = option(None, "project to report to on Weights & Biases; null: TensorBoard alone")
    seed: int = option(0, "of samples, augmentation and fresh weights")

    def __post_init__(self) -> None:
        positive = ("steps", "batch_size", "validate_every", "save_every", "report_every", "keep_last", "lora_rank")
        for name in (*positive, "learning_rate", "clip_norm", "lanes", "shuffle_mib"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be greater than 0")
        for name in ("micro_batch_size", "lora_dropout", "stop_at_accuracy", "epochs", "decoders", "demonstrations"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be 0 or more")
        if self.strategy != "full" and self.checkpoint is None:
            raise ValueError(f"strategy: {self.strategy!r} changes part of a trained policy; say which by checkpoint=")
        if self.sentences is not None:
            try:
                re.compile(self.sentences)
            except re.error as error:
                raise ValueError(f"sentences: {self.sentences!r} is no regular expression: {error}") from error
        if not 0.0 <= self.decay_from <= 1.0:
            raise ValueError(f"decay_from: {self.decay_from} is no share of the steps; choose from 0 to 1")
        if bool(self.data) == bool(self.mixture):
            raise ValueError("data: no dataset, or two kinds; give either data= and dataset_name=, or mixture=")
        for one, other in (("data", "dataset_name"), ("mixture", "data_dir"), ("mixture", "checkpoint")):
            if getattr(self, one) and not getattr(self, other):
                raise ValueError(f"{one}: needs {other}= too")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of `step` (counted from 0): linear warm-up, plateau, cosine to the final rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        start = self.decay_from * self.steps
        share = min(1.0, max(0.0, (step - start) / max(1.0, self.steps - start)))
        falling = 0.5 * (1.0 + math.cos(math.pi * share))
        final = self.learning_rate if self.final_learning_rate is None else self.final_learning_rate
        return final + (self.learning_rate - final) * falling


def recipe_of(strategy: str) -> Path:
    """The file of config/training with what a fine-tuning strategy is run with."""
    home = os.environ.get("OPENVLA_HOME")
    root = Path(home) if home else Path(__file__).resolve().parents[4]
    return root / "config" / "training" / f"{'full_finetune' if strategy == 'full' else strategy}.yaml"


def load_config(path: Path | str | None, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file and apply overrides such as `batch_size=64` or `model.layers=3`.

    Raises:
        ValueError: an unknown key, a missing one or a wrong type, with the choices.
    """
    values: dict[str, Any] = {}
    if path is not None:
        loaded = yaml.safe_load(Path(path).read_text("utf-8")) or {}
        if not isinstance(loaded, dict):
            raise ValueError(f"{path}: expected a mapping of options, found {type(loaded).__name__}")
        values = loaded
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"override {override!r}: write key=value")
        *parents, last = key.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(f"override {override!r}: {parent} is no group of options")
        place[last] = yaml.safe_load(text)
    return _build(TrainConfig, values, str(path or "command line"))


def _build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=3)
            choices = f"did you mean {' or '.join(near)}?" if near else f"the options are {', '.join(known)}"
            raise ValueError(f"{where}: unknown option {key!r}; {choices}")
    absent = [
        name
        for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in values
    ]
    if absent:
        raise ValueError(f"{where}: {', '.join(absent)} must be given")
    return cls(**{key: _convert(value, hints[key], f"{where}: {key}") for key, value in values.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{where}: {value!r} is not a choice; choose one of {', '.join(map(str, arguments))}")
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a group of options, found {value!r}")
        return _build(typing.cast(type, hint), value, where)
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ValueError(f"{where}: expected a list, found {value!r}")
        return tuple(_convert(item, arguments[0], where) for item in items)
    if origin is not None and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML reads 5e-4 as a string
        except ValueError:
            pass
    elif isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: {value!r} is not of type {getattr(hint, '__name__', hint)}")
