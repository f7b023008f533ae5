"""Several processes, one model: FSDP2 through torchrun, on one node or many. Nothing of the model knows of it.

`torchrun --nproc-per-node N -m openvla_training.trainer.cli …` starts one process a GPU (NCCL), or on a CPU (gloo).
Parameters, gradients and optimizer states are divided among them, layer by layer; a layer is gathered while it
computes. Started plainly, all of this is a world of one and costs nothing.
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

LAYERS = (DecoderLayer, Block)  # what is gathered, compiled and computed again one by one
WRAPPED = "_checkpoint_wrapped_module"  # torch's name for what an activation checkpoint wraps
PATIENCE = timedelta(minutes=30)  # of a process that waits for the others; the first reads and measures the data alone


@dataclass(frozen=True)
class World:
    """Which process of a run is at work here, and of how many."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def divide(self, number: int, name: str) -> int:
        """A process's share of `number`.

        Raises:
            ValueError: it cannot be shared evenly.
        """
        if number % self.size:
            near = max(1, number // self.size) * self.size
            raise ValueError(
                f"{name}: {number} cannot be shared by {self.size} processes evenly; choose {name}={near}, or a number "
                f"of processes that divides {number}"
            )
        return number // self.size

    @contextmanager
    def one_first(self) -> Iterator[None]:
        """The first process goes through alone, then the others: what it leaves in a cache is there for them."""
        if self.size > 1 and not self.first:
            dist.barrier()
        yield
        if self.size > 1 and self.first:
            dist.barrier()

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            dist.barrier()

    def gather(self, thing: Any) -> list[Any]:
        """`thing` of every process, in order of rank."""
        if self.size == 1:
            return [thing]
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing)
        return things

    def any(self, flag: bool) -> bool:
        """Whether it is set in any process; all of them ask at the same point."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def mean(self, numbers: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size > 1:
            dist.all_reduce(numbers)
            numbers /= self.size
        return numbers


def join(device: torch.device) -> World:
    """The world that torchrun's environment describes; of one where it did not start us."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if not dist.is_initialized():
        gpu = device.type == "cuda"
        # Processes that torchrun starts again share the store of those that died: without a prefix of their own they
        # would wait for the addresses of the dead (torch 2.13).
        store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            timeout=PATIENCE,
            device_id=device if gpu else None,
            store=dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store),
            rank=rank,
            world_size=size,
        )
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """End what `join` began."""
    if dist.is_initialized():
        dist.destroy_process_group()


def device_of(name: str) -> torch.device:
    """The device of this process: of several GPUs of a node, that of its number on the node."""
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    if kind == "cuda":
        kind = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(kind)
    return torch.device(kind)


def shard(model: nn.Module, device: torch.device, bf16: bool) -> None:
    """Divide the parameters of `model` among all processes, in place: each layer a unit, the rest another.

    With `bf16`, layers are gathered and computed in it; gradients are added up, and weights kept, in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = MixedPrecisionPolicy(torch.bfloat16 if bf16 else None, torch.float32)
    for unit in _units(model):
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def release(model: nn.Module) -> None:
    """Let go of what a forward pass without a backward pass leaves gathered; nothing where nothing is divided."""
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _units(model: nn.Module) -> list[nn.Module]:
    """The layers, with the wrappers that compute them again: these must find them gathered."""
    wrapped = {id(inner): module for module in model.modules() if (inner := getattr(module, WRAPPED, None)) is not None}
    layers = [module for module in model.modules() if isinstance(module, LAYERS)]
    return [wrapped.get(id(layer), layer) for layer in layers]


def whole(tensor: Tensor) -> Tensor:
    """A divided tensor put together; all processes must ask for it."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
