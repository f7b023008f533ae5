"""`--dry-run`: what a run will need, before anything starts."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from openvla_policy.checkpoint.checkpoint import read_json, resolve
from openvla_policy.checkpoint.prismatic import shape_of
from openvla_policy.model import config as shapes
from openvla_policy.model.config import OpenVLAConfig
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.memory_estimate import GPUS, Estimate, estimate, known_gpu
from openvla_training.trainer.parallel import World
from openvla_training.trainer.setup_model import check_processes
from openvla_training.trainer.strategies import STRATEGIES

UTILISATION = 0.4  # share of the GPU's bf16 rate that a well-fed training step reaches
USABLE = 0.92  # of the GPU's memory: the rest is the driver's and the allocator's


OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2.1, "muon": 4.0}  # a trained parameter


def dry_run(config: TrainConfig, gpu: str | None, console: Console, processes: int = 1) -> bool:
    """Print memory by part and time for `gpu` (a name of GPUS, None: the one that is here). True if it fits.

    Raises:
        ValueError: `gpu` is unknown, or none is named and none is here; so many processes cannot share the run.
    """
    check_processes(config, World(0, processes))
    name, rate, memory = _gpu(gpu)
    shape = _shape(config)
    samples = config.micro_batch_size or -(-config.batch_size // processes)
    found = need(config, shape, processes=processes)
    where = name if processes == 1 else f"each of {processes} x {name}"
    table = Table(title=f"a pass of {samples} samples, strategy {config.strategy}, on {where}")
    table.add_column("memory")
    table.add_column("GB", justify="right")
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    for part in parts:
        table.add_row(part, f"{getattr(found, part) / 1e9:.1f}", end_section=part in parts[-2:])
    table.add_row(f"usable on {name}", f"{USABLE * memory / 1e9:.1f}")
    console.print(table)
    seconds = found.flops * config.batch_size / (UTILISATION * rate * processes)
    console.print(
        f"{found.trained / 1e6:.1f} M trained parameters; {found.flops / 1e12:.3g} TFLOP a sample. "
        f"At {UTILISATION:.0%} of {processes * rate / 1e12:.0f} TFLOP/s: {config.batch_size / seconds:.3g} samples/s, "
        f"{seconds:.3g} s a step, {_hours(config, seconds)}"
    )
    fits = found.total <= USABLE * memory
    console.print("it fits" if fits else f"it does not fit: {remedy(config, shape, USABLE * memory, processes)}")
    return fits


def remedy(config: TrainConfig, shape: OpenVLAConfig, memory: float, processes: int = 1) -> str:
    """What to set so that a process stays within `memory` [bytes]."""
    samples = config.micro_batch_size or -(-config.batch_size // processes)
    # Computing activations again costs a third more; passes of less than about eight samples cost more than that.
    tries = [(True, samples)] if config.activation_checkpointing else [(False, samples), (True, 2 * samples)]
    for recompute, above in tries:
        one = need(config, shape, 1, recompute, processes)
        size = above // 2
        while size >= (1 if recompute else min(8, samples)):
            if one.total + (size - 1) * one.activations <= memory:
                also = " activation_checkpointing=true" if recompute else ""
                return f"try micro_batch_size={size}{also} (the step stays {config.batch_size} samples)"
            size //= 2
    return "not even one sample does; choose a strategy that trains less (lora, qlora), more GPUs, or a bigger one"


def need(
    config: TrainConfig,
    shape: OpenVLAConfig,
    samples: int | None = None,
    checkpointing: bool | None = None,
    processes: int = 1,
) -> Estimate:
    """What a process needs for a pass of `samples`, by default as the configuration has it."""
    return estimate(
        shape,
        STRATEGIES[config.strategy],
        samples=samples or config.micro_batch_size or -(-config.batch_size // processes),
        rank=config.lora_rank,
        bf16=config.precision == "bf16",
        activation_checkpointing=config.activation_checkpointing if checkpointing is None else checkpointing,
        optimizer_bytes=OPTIMIZER_BYTES[config.optimizer],
        processes=processes,
    )


def _hours(config: TrainConfig, seconds: float) -> str:
    if not config.epochs:
        return f"{config.steps * seconds / 3600:.3g} h for {config.steps} steps"
    million = 1e6 / config.batch_size * seconds / 3600
    return f"{million:.3g} h for a million samples; {config.epochs:g} epochs are {config.epochs:g} times the data"


def _shape(config: TrainConfig) -> OpenVLAConfig:
    if config.checkpoint is None:
        return shapes.tiny(vocab_size=config.vocabulary + 256, **config.model)
    folder = resolve(config.checkpoint)
    if any((folder / "checkpoints").glob("*.pt")):  # as load_folder tells a run directory of Prismatic's
        return shape_of(folder)
    return OpenVLAConfig.from_dict(read_json(folder / "config.json"))


def _gpu(name: str | None) -> tuple[str, float, float]:
    if name is None:
        if not torch.cuda.is_available():
            raise ValueError(f"--gpu: there is no GPU here; name the one it is for: {', '.join(GPUS)}")
        here = torch.cuda.get_device_properties(0)
        known = known_gpu(here.name)
        return here.name, GPUS[known][0] if known else 100e12, float(here.total_memory)
    if name not in GPUS:
        raise ValueError(f"--gpu: {name!r} is unknown; choose one of {', '.join(GPUS)}")
    return name, *GPUS[name]
