"""What goes wrong in a run, in words that say what to do."""

from __future__ import annotations

import torch

from openvla_policy.model.config import OpenVLAConfig
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.dry_run import USABLE, need, remedy
from openvla_training.trainer.parallel import World

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_LOST = ("Connection closed by peer", "Connection reset by peer", "NCCL", "Timed out waiting", "Broken pipe", "gloo")


class RunError(RuntimeError):
    """A run ended by something that can be said in a line or two; the cause is chained."""


def explain(
    error: RuntimeError, config: TrainConfig, shape: OpenVLAConfig, device: torch.device, world: World, step: int
) -> RunError | None:
    """Out of memory, or another process lost; None of an error that says enough itself."""
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or any(words in text for words in _NO_MEMORY):
        return RunError(f"out of memory at step {step}. {_memory(config, shape, device, world)}")
    if world.size > 1 and any(words in text for words in _LOST):
        return RunError(
            f"process {world.rank} of {world.size} lost another one at step {step} ({text.strip().splitlines()[0]}); "
            "what ended that one stands in its own output. The same command goes on from the last saved state, with "
            "any number of processes that divides the batch"
        )
    return None


def _memory(config: TrainConfig, shape: OpenVLAConfig, device: torch.device, world: World) -> str:
    found = need(config, shape, processes=world.size)
    samples = config.micro_batch_size or config.batch_size // world.size
    says = (
        f"By the estimate a pass of {samples} samples needs {found.total / 1e9:.3g} GB: weights "
        f"{found.weights / 1e9:.3g}, gradients {found.gradients / 1e9:.3g}, optimizer {found.optimizer / 1e9:.3g}, "
        f"activations {found.activations / 1e9:.3g}"
    )
    if device.type != "cuda":
        return f"{says}; lower micro_batch_size, or set activation_checkpointing=true"
    usable = USABLE * torch.cuda.get_device_properties(device).total_memory
    if found.total > usable:
        return f"{says}; {usable / 1e9:.3g} GB are usable here: {remedy(config, shape, usable, processes=world.size)}"
    return (
        f"{says}, which should fit the {usable / 1e9:.3g} GB that are usable: is another program on this GPU "
        f"(nvidia-smi)? Else halve micro_batch_size (to {max(1, samples // 2)}; the step stays as it is)"
    )
