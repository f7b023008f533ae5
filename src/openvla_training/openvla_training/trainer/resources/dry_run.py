"""`--dry-run`: memory and time of a run, before anything starts."""

from __future__ import annotations

import torch
from rich.console import Console
from rich.table import Table

from openvla_policy.checkpoint.checkpoint import read_json, resolve
from openvla_policy.checkpoint.prismatic import shape_of
from openvla_policy.model import config as shapes
from openvla_policy.model.config import OpenVLAConfig
from openvla_training.trainer.config import ModelConfig, TrainConfig
from openvla_training.trainer.parallel import World
from openvla_training.trainer.resources.memory_estimate import GPUS, Estimate, estimate, known_gpu
from openvla_training.trainer.setup_model import check_processes
from openvla_training.trainer.strategies import STRATEGIES

UTILISATION = 0.4  # share of the GPU's bf16 rate that a well-fed training step reaches
USABLE = 0.92  # share of the GPU's memory; driver and allocator take the rest
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw8bit": 2.1, "muon": 4.0}  # optimizer states per trained parameter


def dry_run(config: TrainConfig, gpu: str | None, console: Console, processes: int = 1) -> bool:
    """Print the estimated memory, by part, and the time of a run.

    Args:
        config: The run.
        gpu: A key of GPUS; None: the GPU of this machine.
        console: Where to print.
        processes: Number of GPUs.

    Returns:
        Whether the run fits into the GPU's memory.

    Raises:
        ValueError: The GPU is unknown, or the run cannot be divided among so many processes.
    """
    check_processes(config, World(0, processes))
    name, rate, memory = _gpu(gpu)
    shape, batch_size = _shape(config.model), config.data.batch_size
    found = estimate_run(config, shape, processes=processes)
    where = name if processes == 1 else f"each of {processes} x {name}"
    samples = _samples(config, processes)
    table = Table(title=f"a pass of {samples} samples, strategy {config.model.strategy}, on {where}")
    table.add_column("memory")
    table.add_column("GB", justify="right")
    parts = ("weights", "gradients", "optimizer", "activations", "total")
    for part in parts:
        table.add_row(part, f"{getattr(found, part) / 1e9:.1f}", end_section=part in parts[-2:])
    table.add_row(f"usable on {name}", f"{USABLE * memory / 1e9:.1f}")
    console.print(table)
    seconds = found.flops * batch_size / (UTILISATION * rate * processes)
    console.print(
        f"{found.trained / 1e6:.1f} M trained parameters; {found.flops / 1e12:.3g} TFLOP per sample. "
        f"At {UTILISATION:.0%} of {processes * rate / 1e12:.0f} TFLOP/s: {batch_size / seconds:.3g} samples/s, "
        f"{seconds:.3g} s per step, {_hours(config, seconds)}"
    )
    fits = found.total <= USABLE * memory
    advice = "" if fits else suggest_settings(config, shape, USABLE * memory, processes)
    console.print("it fits" if fits else f"it does not fit: {advice}")
    return fits


def suggest_settings(config: TrainConfig, shape: OpenVLAConfig, memory: float, processes: int = 1) -> str:
    """The options that keep a process within `memory` [bytes], as a sentence."""
    samples = _samples(config, processes)
    # Recomputing activations costs a third more time; passes of less than about eight samples cost more than that.
    recomputing = config.parallel.activation_checkpointing
    for recompute, above in [(True, samples)] if recomputing else [(False, samples), (True, 2 * samples)]:
        one = estimate_run(config, shape, 1, recompute, processes)
        size = above // 2
        while size >= (1 if recompute else min(8, samples)):
            if one.total + (size - 1) * one.activations <= memory:
                also = " parallel.activation_checkpointing=true" if recompute else ""
                step = f"the step stays {config.data.batch_size} samples"
                return f"try parallel.micro_batch_size={size}{also} ({step})"
            size //= 2
    return "not even one sample fits; choose a strategy that trains less (lora, qlora), more GPUs, or a larger one"


def estimate_run(
    config: TrainConfig,
    shape: OpenVLAConfig,
    samples: int | None = None,
    checkpointing: bool | None = None,
    processes: int = 1,
) -> Estimate:
    """Estimate one process's forward and backward pass.

    Args:
        config: The run.
        shape: Shape of the model.
        samples: Samples of the pass; None: as configured.
        checkpointing: Whether activations are recomputed; None: as configured.
        processes: Number of processes.

    Returns:
        Memory and FLOPs.
    """
    parallel = config.parallel
    return estimate(
        shape,
        STRATEGIES[config.model.strategy],
        samples=samples or _samples(config, processes),
        rank=config.model.lora_rank,
        bf16=parallel.precision == "bf16",
        activation_checkpointing=parallel.activation_checkpointing if checkpointing is None else checkpointing,
        optimizer_bytes=OPTIMIZER_BYTES[config.optimizer.name],
        processes=processes,
    )


def _samples(config: TrainConfig, processes: int) -> int:
    """Samples of one process's forward pass."""
    return config.parallel.micro_batch_size or -(-config.data.batch_size // processes)


def _hours(config: TrainConfig, seconds: float) -> str:
    schedule = config.schedule
    if not schedule.epochs:
        return f"{schedule.steps * seconds / 3600:.3g} h for {schedule.steps} steps"
    million = 1e6 / config.data.batch_size * seconds / 3600
    return f"{million:.3g} h for a million samples; {schedule.epochs:g} epochs are {schedule.epochs:g} times the data"


def _shape(model: ModelConfig) -> OpenVLAConfig:
    if model.checkpoint is None:
        return shapes.tiny(vocab_size=model.vocabulary + 256, **model.shape)
    folder = resolve(model.checkpoint)
    if any((folder / "checkpoints").glob("*.pt")):  # a Prismatic run directory, as load_folder recognises it
        return shape_of(folder)
    return OpenVLAConfig.from_dict(read_json(folder / "config.json"))


def _gpu(name: str | None) -> tuple[str, float, float]:
    """Name, bf16 rate [FLOP/s] and memory [bytes] of a GPU; None: the one of this machine."""
    if name is None:
        if not torch.cuda.is_available():
            raise ValueError(f"--gpu: this machine has no GPU; name one of {', '.join(GPUS)}")
        local = torch.cuda.get_device_properties(0)
        known = known_gpu(local.name)
        return local.name, GPUS[known][0] if known else 100e12, float(local.total_memory)
    if name not in GPUS:
        raise ValueError(f"--gpu: {name!r} is unknown; choose one of {', '.join(GPUS)}")
    return name, *GPUS[name]
