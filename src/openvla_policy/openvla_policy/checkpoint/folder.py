"""Read and write checkpoint folders laid out as openvla/openvla-7b on the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from openvla_policy.checkpoint.adapters import find_adapter, read_adapter
from openvla_policy.checkpoint.checkpoint import Checkpoint, find_base, find_file, read_json, read_statistics, resolve
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
    """Load a checkpoint. An un-merged LoRA adapter is merged into its base.

    Args:
        path: A folder, a hub id, or a run directory of Prismatic's training code (prismatic.py has more options).
        dtype: Of the weights.
        device: Where the weights go.
        base: Base model of an adapter. None: the one its adapter_config.json names.
        place: Puts weights into the model in another way, for example quantised (see weights.py).

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files contradict each other.
    """
    folder = resolve(path)
    if any((folder / "checkpoints").glob("*.pt")) and not any(folder.glob("model*.safetensors")):
        from openvla_policy.checkpoint.prismatic import load_prismatic

        return load_prismatic(folder, dtype, device, place=place)
    edits: Mapping[str, Edit] = {}
    weights = folder
    if (adapted := find_adapter(folder)) is not None:
        adapter = read_adapter(adapted)
        weights = find_base(adapted, adapter.base, base)
        edits = adapter.edits()
    raw = read_json(find_file(folder, weights, "config.json"))
    config = OpenVLAConfig.from_dict(raw)
    with torch.device("meta"):
        model = OpenVLA(config)
    stray = [name for name in edits if name not in model.state_dict()]
    if stray:
        raise ValueError(f"{folder}: the adapter changes {stray[0]}, which its base does not have")
    load_weights(model, weights, dtype, device, edits, place)
    preprocessor = read_json(find_file(folder, weights, "preprocessor_config.json"))
    preparation = ImagePreparation.from_config(preprocessor)
    if preparation.size != (config.image_size,) * 2 or len(preparation.means) != len(config.vision):
        raise ValueError(
            f"{folder}: preprocessor_config.json makes {len(preparation.means)} x {preparation.size} images, "
            f"config.json needs {len(config.vision)} x {config.image_size}"
        )
    return Checkpoint(
        model=model.eval(),
        config=config,
        tokenizer=Tokenizer.from_folder(find_file(folder, weights, "tokenizer.json", "tokenizer.model").parent),
        preparation=preparation,
        statistics=read_statistics(folder, weights, raw),
        path=str(path),
    )


def save_folder(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write a checkpoint folder that this module and the reference's code load."""
    save_description(path, checkpoint, dtype)
    save_weights(checkpoint.model, Path(path), dtype)


def save_description(path: str | Path, checkpoint: Checkpoint, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write everything of a checkpoint folder except the weights."""
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
