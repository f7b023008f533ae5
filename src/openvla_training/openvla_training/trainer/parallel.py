"""Data parallelism over several processes: FSDP2 under torchrun, on one node or many.

`torchrun --nproc-per-node N -m openvla_training.trainer.cli …` starts one process per GPU (NCCL), or processes on the
CPU (gloo). Parameters, gradients and optimizer states are sharded layer by layer; a layer is gathered while it
computes. Without torchrun the world has one process and none of this has a cost. The model's code is unaware of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openvla_policy.model.language import DecoderLayer
from openvla_policy.model.vision import Block

LAYERS = (DecoderLayer, Block)  # the units of sharding, compilation and activation checkpointing
CHECKPOINT_WRAPPED = "_checkpoint_wrapped_module"  # torch's attribute for the module inside an activation checkpoint
TIMEOUT = timedelta(minutes=30)  # of a collective; long, since the main process reads and measures the data alone


@dataclass(frozen=True)
class World:
    """This process's rank, and the number of processes of the run."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that logs and writes files."""
        return self.rank == 0

    def divide(self, number: int, name: str) -> int:
        """Divide `number` evenly among the processes.

        Args:
            number: What to divide.
            name: The option it comes from, for the error message.

        Returns:
            One process's share.

        Raises:
            ValueError: `number` is not a multiple of the number of processes.
        """
        if number % self.size:
            near = max(1, number // self.size) * self.size
            raise ValueError(
                f"{name}: {number} cannot be divided evenly among {self.size} processes; choose {name}={near}, or a "
                f"number of processes that divides {number}"
            )
        return number // self.size

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others, which find what it left in a cache."""
        if self.size > 1 and not self.is_main:
            dist.barrier()
        yield
        if self.size > 1 and self.is_main:
            dist.barrier()

    def barrier(self) -> None:
        """Wait until all processes have called this."""
        if self.size > 1:
            dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every process, in order of rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process; all of them must call this."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def mean(self, numbers: Tensor) -> Tensor:
        """Average a tensor over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(numbers)
            numbers /= self.size
        return numbers


def join_processes(device: torch.device) -> World:
    """Join the processes that torchrun's environment describes; without torchrun a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        gpu = device.type == "cuda"
        # Processes that torchrun restarts share the store of those that died. Without a prefix of their own they would
        # wait for the addresses of dead processes (torch 2.13).
        store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=TIMEOUT,
            device_id=device if gpu else None,
            store=dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store),
            rank=rank,
            world_size=size,
        )
    return World(dist.get_rank(), dist.get_world_size())


def leave_processes() -> None:
    """Undo `join_processes`."""
    if dist.is_initialized():
        dist.destroy_process_group()


def select_device(name: str) -> torch.device:
    """The device of this process, by the option `parallel.device`: of a node's GPUs, the one of its local rank."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    return torch.device(kind)


def shard(model: nn.Module, device: torch.device, bf16: bool) -> None:
    """Shard the parameters of a model over all processes, in place: each layer one unit, the rest another.

    Args:
        model: The model.
        device: Device of this process.
        bf16: Whether layers are gathered and computed in bf16. Gradients are reduced, and weights kept, in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32)
    for unit in _units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def reshard(model: nn.Module) -> None:
    """Free the parameters that a forward pass without a backward pass leaves gathered."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _units(model: nn.Module) -> list[nn.Module]:
    """The layers, or their activation checkpoints: a recomputation must find its layer gathered."""
    wrapped = {
        id(inner): module
        for module in model.modules()
        if (inner := getattr(module, CHECKPOINT_WRAPPED, None)) is not None
    }
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    return [wrapped.get(id(layer), layer) for layer in layers]


def gather_tensor(tensor: Tensor) -> Tensor:
    """The whole of a sharded tensor; all processes must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
