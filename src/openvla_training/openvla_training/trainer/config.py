"""The configuration of a training run: frozen dataclasses in groups.

Each component of the trainer is built from its own group. The docstring under a field is its help on the command line
and in the reference page; a unit stands in it in brackets. Only `option_rows` needs pydantic;
`read_config` reads YAML into these classes.
"""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from openvla_policy.model.config import tiny
from openvla_policy.suggestions import did_you_mean

if TYPE_CHECKING:
    from pydantic import ConfigDict

StrategyName = Literal["full", "last_layer", "frozen_vision", "sandwich", "lora", "qlora"]  # of strategies.STRATEGIES
_PYDANTIC: ConfigDict = {"extra": "forbid", "use_attribute_docstrings": True}


@dataclass(frozen=True)
class Range:
    """The values that a number may have, for pydantic: `gt` <, `ge` <= value, value <= `le`, < `lt`."""

    gt: float | None = None
    ge: float | None = None
    le: float | None = None
    lt: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import BeforeValidator, Field

        limits = {name: limit for name, limit in vars(self).items() if limit is not None}
        strict = source is int or None  # a real number may be text: YAML reads 5e-4 as one
        return handler.generate_schema(Annotated[source, Field(strict=strict, **limits), BeforeValidator(_not_bool)])


@dataclass(frozen=True)
class Strict:
    """Only values of the type itself, for pydantic, which would read 1 and "yes" as true."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Field

        return handler.generate_schema(Annotated[source, Field(strict=True)])


def _not_bool(value: Any) -> Any:
    """Reject true and false, which pydantic would read as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


Count = Annotated[int, Range(gt=0)]
CountOrZero = Annotated[int, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]
PositiveOrZero = Annotated[float, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
Flag = Annotated[bool, Strict()]
SHAPE_OPTIONS = frozenset(inspect.signature(tiny).parameters) - {"vocab_size"}
"""What `model.shape` may set: vocab_size follows from `model.vocabulary`."""


@dataclass(frozen=True)
class AugmentConfig:
    """Image augmentation, with the operations and ranges of the reference."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    crop_area: tuple[Share, Share] | None = (0.9, 0.9)
    """Range of the image area that a random crop keeps [share]; null: no crop."""
    brightness: Share = 0.2
    """Largest brightness offset, of values from 0 to 1."""
    contrast: tuple[PositiveOrZero, PositiveOrZero] | None = (0.8, 1.2)
    """Range of the contrast factor; null: unchanged."""
    saturation: tuple[PositiveOrZero, PositiveOrZero] | None = (0.8, 1.2)
    """Range of the saturation factor; null: unchanged."""
    hue: Share = 0.05
    """Largest hue shift [turns]."""


@dataclass(frozen=True)
class DataConfig:
    """What the policy is trained on: RLDS datasets of this machine (`datasets`), or a streamed mixture (`mixture`)."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    datasets: tuple[str, ...] = ()
    """RLDS dataset folders (as tfds.builder_from_directory takes them) or their parent folders."""
    dataset_name: str = ""
    """With datasets: name of their joint statistics, the policy's unnorm_key."""
    sentences: str | None = None
    """With datasets: regular expression; only episodes whose instruction contains a match are used."""
    demonstrations: CountOrZero = 0
    """With datasets: number of episodes to use, from the first [episodes]; 0: all."""
    mixture: str | None = None
    """Instead of datasets: a mixture file, or a name in config/mixtures; statistics are kept by dataset."""
    data_dir: str | None = None
    """With mixture: folder that holds its datasets."""
    wording: Literal["first", "any"] = "first"
    """With mixture: which instruction of an episode that has several (DROID): the first, or one drawn each time."""
    lanes: Count = 1
    """With mixture: independent sample streams of a batch; the number of processes must divide it."""
    shuffle_mib: Count = 1024
    """With mixture: shuffle buffer of each lane, in encoded images [MiB]."""
    decoders: CountOrZero = 2
    """With mixture: threads of each process that decode and resize images."""
    batch_size: Count = 16
    """Samples of an optimizer step, over all processes and micro-batches [samples]."""
    augment: AugmentConfig | None = field(default_factory=AugmentConfig)
    """Image augmentation; null: none."""

    def __post_init__(self) -> None:
        if bool(self.datasets) == bool(self.mixture):
            problem = "both datasets and a mixture" if self.datasets else "no dataset"
            raise ValueError(f"data: {problem}; give either data.datasets= and data.dataset_name=, or data.mixture=")
        for name, needed in (("datasets", "dataset_name"), ("mixture", "data_dir")):
            if getattr(self, name) and not getattr(self, needed):
                raise ValueError(f"data.{name}: needs data.{needed}= too")
        if self.sentences is not None:
            try:
                re.compile(self.sentences)
            except re.error as error:
                message = f"data.sentences: {self.sentences!r} is not a regular expression: {error}"
                raise ValueError(message) from error


@dataclass(frozen=True)
class ModelConfig:
    """The network: which weights training starts from, and which parameters it changes."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    checkpoint: str | None = None
    """Folder or Hugging Face id of the checkpoint to start from; null: random weights of the shape `model.shape`."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """Without checkpoint: arguments of openvla_policy.model.config.tiny, such as {hidden_size: 128, layers: 4}."""
    vocabulary: Count = 512
    """Without checkpoint: size of the text vocabulary, before the 256 action tokens [tokens]."""
    ordinal_tokens: Flag = False
    """Without checkpoint: action tokens start as smooth functions of their bin centre."""
    strategy: StrategyName = "full"
    """Which parameters are trained (Table 1 of the paper)."""
    lora_rank: Count = 32
    """Rank of the adapters of lora and qlora."""
    lora_alpha: Count | None = None
    """Scale of the adapters; null: min(lora_rank, 16), as in the reference."""
    lora_dropout: Share = 0.0
    """Dropout before the adapters [share]."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.shape if name not in SHAPE_OPTIONS]:
            raise ValueError(
                f"model.shape: unknown option {unknown[0]!r}; {did_you_mean(unknown[0], sorted(SHAPE_OPTIONS))}"
            )
        if self.strategy != "full" and self.checkpoint is None:
            raise ValueError(
                f"model.strategy: {self.strategy!r} trains part of an existing policy; name it by model.checkpoint="
            )


@dataclass(frozen=True)
class OptimizerConfig:
    """The loss and the optimizer that minimises it. The defaults are those of the paper."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    name: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    """adamw8bit: states in 8 bits (bitsandbytes); muon: for the hidden matrices of small models."""
    learning_rate: Positive = 2e-5
    """Learning rate after the warm-up."""
    weight_decay: PositiveOrZero = 0.0
    """Decoupled weight decay per step, in units of the learning rate."""
    betas: tuple[Share, Share] = (0.9, 0.999)
    """Decay rates of AdamW's moment estimates."""
    clip_norm: Positive = 1.0
    """Largest norm of the gradient of all parameters together."""
    label_sigma: PositiveOrZero = 0.0
    """Standard deviation of a soft target over neighbouring bins [bins]; 0: plain cross-entropy."""


@dataclass(frozen=True)
class ScheduleConfig:
    """How long to train, and the learning rate over time: warm-up, plateau, cosine decay."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    steps: Count = 200_000
    """Length of the training [optimizer steps]."""
    epochs: PositiveOrZero = 0.0
    """Length of the training in passes over the data [epochs]; 0: `schedule.steps` counts."""
    stop_at_accuracy: Share = 0.0
    """Training accuracy of action tokens since the last validation, above which training ends [share]; 0: never."""
    warmup_steps: CountOrZero = 0
    """Linear rise of the learning rate from 0 [steps]."""
    decay_from: Share = 0.0
    """Point of the training from which the learning rate decays [share of the steps]."""
    final_learning_rate: PositiveOrZero | None = None
    """Learning rate at the last step; null: optimizer.learning_rate, so constant."""

    def learning_rate(self, step: int, peak: float) -> float:
        """The learning rate of `step`, counted from 0, where `peak` is that of the plateau."""
        if step < self.warmup_steps:
            return peak * (step + 1) / self.warmup_steps
        start = self.decay_from * self.steps
        share = min(1.0, max(0.0, (step - start) / max(1.0, self.steps - start)))
        final = peak if self.final_learning_rate is None else self.final_learning_rate
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * share))

    def resolved(self, steps_per_epoch: float) -> ScheduleConfig:
        """The schedule with `epochs` counted in `steps`, for an epoch of `steps_per_epoch`."""
        return replace(self, steps=max(1, round(self.epochs * steps_per_epoch))) if self.epochs else self


@dataclass(frozen=True)
class ParallelConfig:
    """How a step is computed: device, precision, and what saves memory or time."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    micro_batch_size: CountOrZero = 0
    """Samples of one process's forward pass; gradients accumulate over a step [samples]; 0: all of its share."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Precision of matrix products; trained weights are kept in fp32."""
    activation_checkpointing: Flag = False
    """Recompute the activations within each layer in the backward pass instead of keeping them."""
    compile: Flag = False
    """Compile each layer with torch.compile: minutes at the start, faster steps."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where a GPU is available."""
    threads: CountOrZero = 0
    """CPU threads of torch; 0: torch's default."""


@dataclass(frozen=True)
class OutputConfig:
    """What a run writes, and how often."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    folder: str
    """Folder for checkpoints, curves, plots and resume states. A second run with the same folder resumes the first."""
    report_every: Count = 20
    """Interval of the points of the training curves [steps]."""
    validate_every: Count = 500
    """Interval of validations: metrics and plots [steps]."""
    save_every: Count = 500
    """Interval of resume states [steps]."""
    keep_last: Count = 2
    """Number of resume states to keep, besides the best one."""
    wandb: str | None = None
    """Weights & Biases project to report to; null: TensorBoard only."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    __pydantic_config__: ClassVar[ConfigDict] = _PYDANTIC

    output: OutputConfig
    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    seed: CountOrZero = 0
    """Seed of samples, augmentation, dropout and random weights."""

    def __post_init__(self) -> None:
        if self.data.mixture and not self.model.checkpoint:
            raise ValueError("data.mixture: needs model.checkpoint= too")

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step`, counted from 0."""
        return self.schedule.learning_rate(step, self.optimizer.learning_rate)


GROUPS: dict[str, type] = {
    "output": OutputConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "parallel": ParallelConfig,
}


class OptionRow(NamedTuple):
    """One option, for --help and the reference page."""

    name: str
    type: str
    default: str
    unit: str
    meaning: str


def option_rows() -> Iterator[OptionRow]:
    """All options of a run, group by group.

    Yields:
        One row per option, named as in an override.
    """
    from pydantic import TypeAdapter

    schema = TypeAdapter(TrainConfig).json_schema()

    def rows(properties: Mapping[str, Any], required: Sequence[str], prefix: str) -> Iterator[OptionRow]:
        for name, entry in properties.items():
            group = next((one for one in (entry, *entry.get("anyOf", ())) if "$ref" in one), None)
            if group is not entry:
                meaning = entry["description"]
                unit = re.search(r" \[([^\]]+)\]", meaning)
                default = entry.get("default")
                if group is not None:
                    text = "…"
                elif "default" not in entry:
                    text = "(required)" if name in required else "{}"
                else:
                    text = (default or "(empty)") if isinstance(default, str) else json.dumps(default)
                plain = meaning.replace(unit[0], "") if unit else meaning
                yield OptionRow(prefix + name, _type_name(entry), text, unit[1] if unit else "", plain)
            if group is not None:
                inner = schema["$defs"][group["$ref"].rpartition("/")[2]]
                yield from rows(inner["properties"], inner.get("required", ()), f"{prefix}{name}.")

    yield from rows(schema["properties"], schema.get("required", ()), "")


def _type_name(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type_name(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type_name(schema['items'] if 'items' in schema else schema['prefixItems'][0])}"
    names = {"string": "text", "integer": "whole number", "boolean": "true, false", "object": "group"}
    kind = str(schema.get("type", "object"))
    return names.get(kind, kind)
