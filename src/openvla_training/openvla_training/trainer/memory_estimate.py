"""Memory and time of a training step, found on the meta device: nothing is allocated, nothing computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from openvla_policy.checkpoint.adapters import linear_modules
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.setup_model import recompute_activations
from openvla_training.trainer.strategies import Strategy, apply_strategy

LABELS = 8  # seven action tokens and end of sequence
PROMPT_TOKENS = 24  # text of a step: a prompt of about fifteen tokens, seven action tokens, end of sequence
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
    """The entry of GPUS that a device's full name speaks of."""
    plain = name.lower().replace(" ", "")
    return max((key for key in GPUS if key.removeprefix("rtx") in plain), key=len, default=None)


@dataclass(frozen=True)
class Estimate:
    """Bytes held at the peak of a step, by what they are for, and FLOPs of a sample (forward and backward)."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    flops: float
    trained: int  # parameters

    @property
    def total(self) -> float:
        """Bytes in all. The allocator's own losses, some 5 to 10 %, come on top."""
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
    """Of a forward and backward pass over `samples`; `optimizer_bytes` a trained parameter (AdamW in float32: 8).

    Sharded over several `processes`, one holds its part, and the layer at work (the largest of matrices) whole.

    Trained parameters and their gradients are float32, frozen matrices bf16 (with `bf16`), a quantised base nf4.
    Activations are what autograd keeps for the backward pass, counted as it keeps them. Quantised bases are counted
    without the matrix that each layer unpacks for a moment.
    """
    model = _build(config, strategy, rank)
    matrices = {f"{name}.weight" for name in linear_modules(model)}
    weights = trained = 0.0
    cast = {"layers": 0.0, "rest": 0.0}  # parameters of which there is a bf16 copy until the backward pass
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
    if bf16 and processes == 1:  # several gather in bf16 what they compute with
        weights += 2 * (cast["rest"] + cast["layers"] / (layers if activation_checkpointing else 1))
    # All layers but the last are alike, and samples too: one and two of each say it all.
    dtype = torch.bfloat16 if bf16 else torch.float32

    def traced(depth: int, checkpointing: bool) -> tuple[float, float]:
        short = replace(config, text=replace(config.text, num_hidden_layers=depth))
        return _trace(_build(short, strategy, rank), short, dtype, checkpointing)

    (kept, flops), (kept_two, flops_two) = (traced(depth, activation_checkpointing) for depth in (1, 2))
    kept += (layers - 1) * (kept_two - kept)
    flops += (layers - 1) * (flops_two - flops)
    if activation_checkpointing:  # while a layer is computed again, what it keeps is there too
        kept += traced(2, False)[0] - traced(1, False)[0]
    if processes > 1:
        # Gathered at once: what is in no layer (embeddings, head, projector) and two layers, in compute precision.
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


def _trace(model: OpenVLA, config: OpenVLAConfig, dtype: torch.dtype, checkpointing: bool) -> tuple[float, float]:
    """Bytes that autograd keeps of a sample, each storage once, and its FLOPs of forward and backward."""
    model.to(dtype)
    if checkpointing:
        recompute_activations(model)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    held: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in parameters:
            held[tensor.untyped_storage()._cdata] = tensor
        return tensor

    ids = torch.zeros(1, PROMPT_TOKENS, dtype=torch.int64, device="meta")
    pixels = torch.zeros(1, 3 * len(config.vision), *[config.image_size] * 2, dtype=dtype, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            hidden_BLD = model.language_model.model(model.embed(ids, pixels))
            logits = model.language_model.lm_head(hidden_BLD[:, -LABELS:])  # the head sees labelled positions only
            loss = logits.float().logsumexp(-1).sum()
        kept = float(sum(tensor.untyped_storage().nbytes() for tensor in held.values()))
        loss.backward()
    return kept, float(counter.get_total_flops())
