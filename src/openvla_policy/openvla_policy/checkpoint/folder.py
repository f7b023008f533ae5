"""Read and write checkpoint folders laid out as openvla/openvla-7b on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from openvla_policy.checkpoint.adapters import find_adapter, read_adapter
from openvla_policy.checkpoint.checkpoint import Checkpoint, _base_of, _first, _read_statistics, read_json, resolve
from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.checkpoint.weights import Edit, Place, load_weights, save_weights
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA


def load_folder(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    base: str | Path | None = None,
    place: Place | None = None,
) -> Checkpoint:
    """Load a folder or a hub id; of an un-merged LoRA adapter, its base with the adapter merged in.

    A run directory of Prismatic's training code is read too (see prismatic.py, which takes more options).

    `base` says where an adapter's base is when its adapter_config.json names a place that is not here. `place` is
    for loading quantised (see weights.py and runtime/precision.py).
    """
    folder = resolve(path)
    if any((folder / "checkpoints").glob("*.pt")) and not any(folder.glob("model*.safetensors")):
        from openvla_policy.checkpoint.prismatic import load_prismatic  # which needs Checkpoint

        return load_prismatic(folder, dtype, device, place=place)
    edits: Mapping[str, Edit] = {}
    weights = folder
    if (adapted := find_adapter(folder)) is not None:
        adapter = read_adapter(adapted)
        weights = _base_of(adapted, adapter.base, base)
        edits = adapter.edits()
    raw = read_json(_first(folder, weights, "config.json"))
    config = OpenVLAConfig.from_dict(raw)
    with torch.device("meta"):
        model = OpenVLA(config)
    stray = [name for name in edits if name not in model.state_dict()]
    if stray:
        raise ValueError(f"{folder}: the adapter changes {stray[0]}, which its base does not have")
    load_weights(model, weights, dtype, device, edits, place)
    preprocessor = read_json(_first(folder, weights, "preprocessor_config.json"))
    preparation = ImagePreparation.from_config(preprocessor)
    if preparation.size != (config.image_size,) * 2 or len(preparation.means) != len(config.vision):
        raise ValueError(
            f"{folder}: preprocessor_config.json makes {len(preparation.means)} x {preparation.size} images, "
            f"config.json wants {len(config.vision)} x {config.image_size}"
        )
    return Checkpoint(
        model=model.eval(),
        config=config,
        tokenizer=Tokenizer.from_folder(_first(folder, weights, "tokenizer.json", "tokenizer.model").parent),
        preparation=preparation,
        statistics=_read_statistics(folder, weights, raw),
        path=str(path),
    )


def save_folder(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write `checkpoint` so that this module and the reference code both load it."""
    save_description(path, checkpoint, dtype)
    save_weights(checkpoint.model, Path(path), dtype)


def save_description(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write all of a folder but the weights: configuration, statistics, image preparation, tokenizer."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    statistics = {name: entry.to_json() for name, entry in checkpoint.statistics.items()}
    config = checkpoint.config.to_dict() | {"norm_stats": statistics}
    config["torch_dtype"] = str(dtype).removeprefix("torch.")
    tokenizer = checkpoint.tokenizer
    generation = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id}
    generation |= {"_from_model_config": True, "pad_token_id": checkpoint.config.pad_token_id}
    for name, data in (
        ("config.json", config),
        ("generation_config.json", generation),
        ("preprocessor_config.json", checkpoint.preparation.to_config()),
        ("dataset_statistics.json", statistics),
    ):
        (folder / name).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")
    tokenizer.save(folder)
