"""Explains runtime errors of a run, with the remedy."""

from __future__ import annotations

import torch

from openvla_policy.model.config import OpenVLAConfig
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.parallel import World
from openvla_training.trainer.resources.dry_run import USABLE, estimate_run, suggest_settings

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_LOST_PROCESS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "NCCL",
    "Timed out waiting",
    "Broken pipe",
    "gloo",
)


class RunError(RuntimeError):
    """A run failed for a known reason; the cause is chained."""


def diagnose(
    error: RuntimeError, config: TrainConfig, shape: OpenVLAConfig, device: torch.device, world: World, step: int
) -> RunError | None:
    """Recognise running out of memory, and the loss of another process.

    Args:
        error: What the training step raised.
        config: The run.
        shape: Shape of the model.
        device: Device of this process.
        world: The processes of the run.
        step: Number of completed steps.

    Returns:
        The explained error; None if the original one is to be raised.
    """
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _NO_MEMORY):
        return RunError(f"out of memory at step {step}. {_memory(config, shape, device, world)}")
    if world.size > 1 and any(words in text for words in _LOST_PROCESS):
        return RunError(
            f"process {world.rank} of {world.size} lost the connection to another one at step {step} "
            f"({text.strip().splitlines()[0]}); see the output of that process for the reason. The same command "
            "resumes from the last saved state, on any number of processes that divides the batch"
        )
    return None


def _memory(config: TrainConfig, shape: OpenVLAConfig, device: torch.device, world: World) -> str:
    found = estimate_run(config, shape, processes=world.size)
    samples = config.parallel.micro_batch_size or config.data.batch_size // world.size
    estimated = (
        f"An estimated pass of {samples} samples needs {found.total / 1e9:.3g} GB: weights "
        f"{found.weights / 1e9:.3g}, gradients {found.gradients / 1e9:.3g}, optimizer {found.optimizer / 1e9:.3g}, "
        f"activations {found.activations / 1e9:.3g}"
    )
    if device.type != "cuda":
        return f"{estimated}; lower parallel.micro_batch_size, or set parallel.activation_checkpointing=true"
    usable = USABLE * torch.cuda.get_device_properties(device).total_memory
    if found.total > usable:
        advice = suggest_settings(config, shape, usable, processes=world.size)
        return f"{estimated}; {usable / 1e9:.3g} GB are usable on this GPU: {advice}"
    return (
        f"{estimated}, which should fit the {usable / 1e9:.3g} GB that are usable: does another program use this GPU "
        f"(nvidia-smi)? If not, halve parallel.micro_batch_size (to {max(1, samples // 2)}; the step stays the same)"
    )
