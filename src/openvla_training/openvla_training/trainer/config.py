"""What one training run is: a dataclass read from YAML, with `key=value` overrides from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from openvla_training.trainer.augment import AugmentConfig


@dataclass(frozen=True)
class TrainConfig:
    """Defaults are the paper's (lr 2e-5 constant, no warm-up, no weight decay, clipping at 1)."""

    output: str  # folder for the checkpoint, the frame cache, TensorBoard curves and the resume state
    data: tuple[str, ...]  # RLDS dataset folders (as tfds.builder_from_directory takes them, or their parents)
    dataset_name: str  # under which the statistics are saved: the policy's unnorm_key
    checkpoint: str | None = None  # Hugging Face folder to start from; None: fresh weights of shape `model`
    model: Mapping[str, Any] = field(default_factory=dict)  # arguments of openvla_policy.model.config.tiny
    vocabulary: int = 512  # tokens before the 256 action tokens, when the tokenizer is made anew
    strategy: Literal["full", "last_layer", "frozen_vision", "sandwich", "lora", "qlora"] = "full"
    lora_rank: int = 32
    lora_alpha: int | None = None  # None: min(lora_rank, 16), the reference's
    lora_dropout: float = 0.0
    steps: int = 200_000
    stop_at_accuracy: float = 0.0  # share of action tokens right in validation at which training ends; 0: never
    batch_size: int = 16  # samples a step
    micro_batch_size: int = 0  # samples in a forward pass, gradients add up over a step; 0: batch_size
    activation_checkpointing: bool = False  # forget activations within each layer and compute them again: less memory
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = 2e-5
    final_learning_rate: float = 2e-5  # reached at the last step; equal to learning_rate: constant
    decay_from: float = 0.0  # share of the steps after which the rate falls (cosine)
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    clip_norm: float = 1.0
    precision: Literal["fp32", "bf16"] = "bf16"  # of the matrix products; weights and optimizer stay fp32
    label_sigma: float = 0.0  # [bins] spread of the target over neighbouring action bins; 0: plain cross-entropy
    ordinal_tokens: bool = False  # fresh action tokens start as smooth functions of their bin centre
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    validate_every: int = 500  # steps
    save_every: int = 500  # steps
    seed: int = 0
    device: str = "auto"  # auto: cuda where there is one, else cpu
    threads: int = 0  # CPU threads; 0: what torch chooses

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every", "save_every", "learning_rate", "clip_norm"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be greater than 0")
        for name in ("micro_batch_size", "lora_dropout", "stop_at_accuracy"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} is not allowed; it must be 0 or more")
        if self.lora_rank < 1:
            raise ValueError(f"lora_rank: {self.lora_rank} is not allowed; it must be 1 or more")
        if self.strategy != "full" and self.checkpoint is None:
            raise ValueError(f"strategy: {self.strategy!r} changes part of a trained policy; say which by checkpoint=")
        if not 0.0 <= self.decay_from <= 1.0:
            raise ValueError(f"decay_from: {self.decay_from} is no share of the steps; choose from 0 to 1")
        if not self.data:
            raise ValueError("data: no dataset folder is named; give at least one")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of `step` (counted from 0): linear warm-up, plateau, cosine to the final rate."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        start = self.decay_from * self.steps
        share = min(1.0, max(0.0, (step - start) / max(1.0, self.steps - start)))
        falling = 0.5 * (1.0 + math.cos(math.pi * share))
        return self.final_learning_rate + (self.learning_rate - self.final_learning_rate) * falling


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
