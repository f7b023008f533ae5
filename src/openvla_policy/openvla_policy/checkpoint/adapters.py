"""LoRA adapters in PEFT's layout: merged by plain arithmetic, attached for training by peft."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from openvla_policy.checkpoint.library_logs import silence_library_logs
from openvla_policy.checkpoint.weights import read_pickled

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An un-merged adapter.

    Attributes:
        base: Folder or hub id of its base model; '' if unknown.
        pairs: Weight name to (A, B, scale).
        replaced: Weight name to the tensor that replaces it.
        magnitudes: Weight name to the norms of its rows, where they were trained separately (DoRA).
    """

    base: str
    pairs: Mapping[str, tuple[Tensor, Tensor, float]]
    replaced: Mapping[str, Tensor]
    magnitudes: Mapping[str, Tensor] = field(default_factory=dict)

    def edits(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For each changed weight the function of its float32 base value that gives its merged value."""

        def low_rank(a: Tensor, b: Tensor, scale: float, norms: Tensor | None) -> Callable[[Tensor], Tensor]:
            def edit(weight: Tensor) -> Tensor:
                changed = weight + scale * delta(a.float(), b.float()).view_as(weight)
                if norms is None:
                    return changed
                gain = norms.float().flatten() / changed.flatten(1).norm(dim=1)
                return changed * gain.view(-1, *[1] * (weight.ndim - 1))

            return edit

        def whole(tensor: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda weight: tensor.float().view_as(weight)

        merged = {name: low_rank(*pair, self.magnitudes.get(name)) for name, pair in self.pairs.items()}
        return merged | {name: whole(tensor) for name, tensor in self.replaced.items()}


def delta(a: Tensor, b: Tensor) -> Tensor:
    """B @ A; of convolutions, A is (r, in, k, k) and B (out, r, 1, 1)."""
    return b.flatten(1) @ a.flatten(1)


def find_adapter(folder: Path) -> Path | None:
    """Find an un-merged adapter.

    Args:
        folder: A checkpoint folder.

    Returns:
        The folder itself, or its `lora_adapter` (as the reference's fine-tuning scripts write it) unless merged weights
        are beside it; None where the folder has whole weights.
    """
    if (folder / "adapter_config.json").is_file():
        return folder
    inner = folder / "lora_adapter"
    merged = any(folder.glob("model*.safetensors"))
    return inner if not merged and (inner / "adapter_config.json").is_file() else None


def read_adapter(folder: Path) -> Adapter:
    """Read adapter_config.json and adapter_model.safetensors (or .bin, as PEFT wrote until 0.5).

    Args:
        folder: The adapter's folder.

    Returns:
        The adapter.

    Raises:
        FileNotFoundError: The weights are missing.
        ValueError: It is not a LoRA adapter, or has weights of a kind that cannot be merged.
    """
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA" or config.get("fan_in_fan_out"):
        found = {key: config.get(key) for key in ("peft_type", "fan_in_fan_out")}
        raise ValueError(f"{folder}: only LoRA adapters can be merged, this is {found}")
    path = folder / "adapter_model.safetensors"
    pickled = path.with_suffix(".bin")
    if not path.is_file() and not pickled.is_file():
        raise FileNotFoundError(f"{path}: missing")
    stored = load_file(path) if path.is_file() else read_pickled(pickled)
    magnitudes: dict[str, Tensor] = {}
    halves: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix(_PREFIX)
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif match := re.fullmatch(r"(.+)\.lora_magnitude_vector(?:\.default)?(?:\.weight)?", name):
            magnitudes[f"{match[1]}.weight"] = tensor
        elif "lora_" in name:
            raise ValueError(f"{path}: {key} is not a kind of adapter weight that can be merged")
        else:  # a module trained whole (modules_to_save) or a bias
            replaced[re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", name)] = tensor
    pairs = {}
    for module, half in halves.items():
        if set(half) != {"A", "B"}:
            raise ValueError(f"{path}: {module} has only lora_{''.join(half)}")
        pairs[f"{module}.weight"] = (half["A"], half["B"], _scale(config, module))
    return Adapter(config.get("base_model_name_or_path") or "", pairs, replaced, magnitudes)


def _scale(config: Mapping[str, Any], module: str) -> float:
    def of(pattern: Mapping[str, Any] | None, default: float) -> float:
        for key, value in (pattern or {}).items():
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return float(value)
        return float(default)

    rank = of(config.get("rank_pattern"), config["r"])
    alpha = of(config.get("alpha_pattern"), config["lora_alpha"])
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def linear_modules(model: nn.Module) -> list[str]:
    """Modules that the reference's `all-linear` adapts: every Linear, also lm_head, and the patch embeddings."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def attach_lora(model: nn.Module, rank: int = 32, alpha: int | None = None, dropout: float = 0.0) -> Any:
    """Wrap a model in a trainable adapter with the reference's fine-tuning defaults.

    Args:
        model: The model.
        rank: Rank of the adapter.
        alpha: Its scale is alpha / rank. None: the lesser of rank and 16.
        dropout: Share of inputs that training drops.

    Returns:
        peft's model.
    """
    silence_library_logs()
    import peft  # takes over ten CPU-seconds to import

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=min(rank, 16) if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=linear_modules(model),
        init_lora_weights="gaussian",
    )
    return peft.get_peft_model(model, config)
