"""LoRA adapters in PEFT's layout: merged by plain arithmetic, attached for training through peft."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

_PREFIX = "base_model.model."


@dataclass(frozen=True)
class Adapter:
    """An un-merged adapter. `pairs` maps a weight's name to (A, B, scale); `replaced` to a whole tensor."""

    base: str
    pairs: Mapping[str, tuple[Tensor, Tensor, float]]
    replaced: Mapping[str, Tensor]

    def edits(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For each weight touched, what to do with its float32 base."""

        def low_rank(a: Tensor, b: Tensor, scale: float) -> Callable[[Tensor], Tensor]:
            return lambda weight: weight + scale * delta(a.float(), b.float()).view_as(weight)

        def whole(tensor: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda weight: tensor.float().view_as(weight)

        merged = {name: low_rank(*pair) for name, pair in self.pairs.items()}
        return merged | {name: whole(tensor) for name, tensor in self.replaced.items()}


def delta(a: Tensor, b: Tensor) -> Tensor:
    """B @ A; of convolutions, A is (r, in, k, k) and B (out, r, 1, 1)."""
    return b.flatten(1) @ a.flatten(1)


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter rather than a whole checkpoint."""
    return (folder / "adapter_config.json").is_file()


def read_adapter(folder: Path) -> Adapter:
    """Read adapter_config.json and adapter_model.safetensors."""
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("peft_type") != "LORA" or config.get("use_dora") or config.get("fan_in_fan_out"):
        asked = {key: config.get(key) for key in ("peft_type", "use_dora", "fan_in_fan_out")}
        raise ValueError(f"{folder}: only plain LoRA adapters can be merged, this is {asked}")
    path = folder / "adapter_model.safetensors"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing")
    halves: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    for key, tensor in load_file(path).items():
        name = key.removeprefix(_PREFIX)
        match = re.fullmatch(r"(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match:
            halves.setdefault(match[1], {})[match[2]] = tensor
        elif "lora_" in name:
            raise ValueError(f"{path}: {key} is not a kind of adapter weight that can be merged")
        else:  # a module trained whole (modules_to_save) or a bias
            replaced[re.sub(r"\.(modules_to_save(\.default)?|base_layer)\.", ".", name)] = tensor
    pairs = {}
    for module, half in halves.items():
        if set(half) != {"A", "B"}:
            raise ValueError(f"{path}: {module} has only lora_{''.join(half)}")
        pairs[f"{module}.weight"] = (half["A"], half["B"], _scale(config, module))
    return Adapter(config.get("base_model_name_or_path") or "", pairs, replaced)


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
    """What the reference's `all-linear` adapts: every Linear, lm_head too, and the patch embeddings."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def attach_lora(model: nn.Module, rank: int = 32, alpha: int | None = None, dropout: float = 0.0) -> Any:
    """Wrap `model` in a trainable adapter (peft) with the reference's fine-tuning defaults."""
    import peft  # takes over ten CPU-seconds to import

    config = peft.LoraConfig(
        r=rank,
        lora_alpha=min(rank, 16) if alpha is None else alpha,
        lora_dropout=dropout,
        target_modules=linear_modules(model),
        init_lora_weights="gaussian",
    )
    return peft.get_peft_model(model, config)
