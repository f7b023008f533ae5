"""Memory and FLOPs of a training step, traced on the meta device: nothing is allocated or computed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import FlopCounterMode

from openvla_policy.checkpoint.adapters import linear_modules
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.setup_model import recompute_activations
from openvla_training.trainer.strategies import Strategy, apply_strategy

LABELS = 8  # seven action tokens and end of sequence
PROMPT_TOKENS = 24  # text of a sample: a prompt of about fifteen tokens, seven action tokens, end of sequence
NF4_BYTES = 0.5 + 4 / 64  # four bits a weight, and a float32 scale for each block of 64
MIB = 2.0**20
# Dense bf16 rate [FLOP/s] as the makers state it, and memory [bytes] as nvidia-smi shows it: their GB are 2^30 bytes.
GPUS = {
    "h200": (989e12, 143771 * MIB),
    "h100": (989e12, 81559 * MIB),
    "a100": (312e12, 81920 * MIB),
    "l40s": (362e12, 46068 * MIB),
    "rtx6000ada": (364e12, 49140 * MIB),
    "a6000": (155e12, 49140 * MIB),
    "rtx4090": (165e12, 24564 * MIB),
}


def known_gpu(name: str) -> str | None:
    """The key of GPUS that occurs in a device's full name; None: an unknown GPU."""
    plain = name.lower().replace(" ", "")
    return max((key for key in GPUS if key.removeprefix("rtx") in plain), key=len, default=None)


@dataclass(frozen=True)
class Estimate:
    """Memory at the peak of a step [bytes], and the cost of a sample.

    Attributes:
        weights: Of the model, with copies in compute precision [bytes].
        gradients: [bytes].
        optimizer: States [bytes].
        activations: What autograd keeps for the backward pass [bytes].
        flops: Of one sample, forward and backward.
        trained: Number of trained parameters.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    flops: float
    trained: int

    @property
    def total(self) -> float:
        """All of them [bytes]; fragmentation of the allocator adds some 5 to 10 %."""
        return self.weights + self.gradients + self.optimizer + self.activations


def estimate(
    config: OpenVLAConfig,
    strategy: Strategy,
    *,
    samples: int,
    rank: int = 32,
    bf16: bool = True,
    activation_checkpointing: bool = False,
    optimizer_bytes: float = 8.0,
    processes: int = 1,
) -> Estimate:
    """Estimate the memory of a forward and backward pass.

    Trained parameters and their gradients are float32, frozen matrices bf16 (with `bf16`), a quantised base nf4.
    Activations are counted as autograd keeps them. The matrix that a quantised layer unpacks is not counted.

    Args:
        config: Shape of the model.
        strategy: What is trained.
        samples: Samples of the pass, on one process.
        rank: Rank of an adapter.
        bf16: Whether matrix products are computed in bf16.
        activation_checkpointing: Whether activations are recomputed.
        optimizer_bytes: Optimizer states per trained parameter [bytes]; AdamW in float32: 8.
        processes: Number of processes that the model is sharded over; each also holds the layer at work unsharded.

    Returns:
        The estimate for one process.
    """
    model = _build(config, strategy, rank)
    matrices = {f"{name}.weight" for name in linear_modules(model)}
    weights = trained = 0.0
    cast = {"layers": 0.0, "rest": 0.0}  # parameters with a bf16 copy until the backward pass
    for name, p in model.named_parameters():
        matrix = name in matrices
        if p.requires_grad:
            trained += p.numel()
            weights += p.numel() * 4
            cast["layers" if _in_layer(name) else "rest"] += p.numel() if p.ndim > 1 else 0
        elif strategy.quantised and matrix and "lm_head" not in name:
            weights += p.numel() * NF4_BYTES
        else:
            weights += p.numel() * (2 if bf16 and matrix else 4)
    layers = config.text.num_hidden_layers
    if bf16 and processes == 1:  # several processes gather the layers in bf16 already
        weights += 2 * (cast["rest"] + cast["layers"] / (layers if activation_checkpointing else 1))
    # Layers are alike, and so are samples: the difference of two depths is the cost of each further layer.
    dtype = torch.bfloat16 if bf16 else torch.float32
    kept, flops = _trace(config, strategy, rank, 1, dtype, activation_checkpointing)
    kept_two, flops_two = _trace(config, strategy, rank, 2, dtype, activation_checkpointing)
    kept += (layers - 1) * (kept_two - kept)
    flops += (layers - 1) * (flops_two - flops)
    if activation_checkpointing:  # while a layer is recomputed, its activations are in memory too
        kept += _trace(config, strategy, rank, 2, dtype, False)[0] - _trace(config, strategy, rank, 1, dtype, False)[0]
    if processes > 1:
        # Gathered at a time, in compute precision: what is in no layer (embeddings, head, projector), and two layers.
        inside = [p.numel() for name, p in model.named_parameters() if _in_layer(name)]
        total = sum(p.numel() for p in model.parameters())
        gathered = (2 if bf16 else 4) * (total - sum(inside) + 2 * sum(inside) / layers)
        weights = weights / processes + gathered
    trained /= processes
    return Estimate(weights, 4.0 * trained, optimizer_bytes * trained, samples * kept, flops, int(trained * processes))


def _in_layer(name: str) -> bool:
    return ".layers." in name or ".blocks." in name


def _build(config: OpenVLAConfig, strategy: Strategy, rank: int) -> OpenVLA:
    with torch.device("meta"):
        model = OpenVLA(config)
        apply_strategy(model, strategy, rank)
    return model


@cache
def _trace(
    config: OpenVLAConfig, strategy: Strategy, rank: int, depth: int, dtype: torch.dtype, checkpointing: bool
) -> tuple[float, float]:
    """What autograd keeps of one sample at `depth` decoder layers [bytes], and its FLOPs, forward and backward."""
    config = replace(config, text=replace(config.text, num_hidden_layers=depth))
    model = _build(config, strategy, rank)
    model.to(dtype)
    if checkpointing:
        recompute_activations(model)
    # A storage on the meta device has no address; its weak reference identifies it.
    parameters = {StorageWeakRef(p.untyped_storage()) for p in model.parameters()}
    held: dict[StorageWeakRef, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage not in parameters:
            held[storage] = tensor
        return tensor

    ids = torch.zeros(1, PROMPT_TOKENS, dtype=torch.int64, device="meta")
    pixels = torch.zeros(1, 3 * len(config.vision), *[config.image_size] * 2, dtype=dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden_BLD = model.language_model.model(model.embed(ids, pixels))
            logits = model.language_model.lm_head(hidden_BLD[:, -LABELS:])  # the head computes labelled positions only
            loss = logits.float().logsumexp(-1).sum()
        kept = float(sum(tensor.untyped_storage().nbytes() for tensor in held.values()))
        loss.backward()
    return kept, float(counter.get_total_flops())
