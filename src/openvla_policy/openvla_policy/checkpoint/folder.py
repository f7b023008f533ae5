"""Read and write checkpoint folders laid out as openvla/openvla-7b on the Hugging Face hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..contract.action_tokens import ActionTokenizer
from ..contract.image import ImagePreparation
from ..contract.statistics import Statistics
from ..model.config import OpenVLAConfig
from ..model.vla import OpenVLA
from .adapters import find_adapter, read_adapter
from .tokenizer import Tokenizer
from .weights import Edit, Place, load_weights, save_weights


@dataclass
class Checkpoint:
    """A policy with everything needed to run it. `statistics` are by dataset name (the `unnorm_key`)."""

    model: OpenVLA
    config: OpenVLAConfig
    tokenizer: Tokenizer
    preparation: ImagePreparation
    statistics: dict[str, Statistics]
    path: str = ""

    @property
    def action_tokenizer(self) -> ActionTokenizer:
        """Actions over the end of this vocabulary."""
        return ActionTokenizer(self.config.action_vocab_size, self.config.n_action_bins)


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
        from .prismatic import load_prismatic  # which needs Checkpoint

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


def resolve(path: str | Path) -> Path:
    """A local folder as it is; a hub id (`owner/name`) through the hub's cache, downloaded if need be."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(path)):
        raise FileNotFoundError(f"checkpoint {str(path)!r}: no such folder, and not a hub id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        patterns = ["*.json", "*.safetensors", "tokenizer.model", "*--*checkpoint.pt"]  # the last: OFT heads
        return Path(snapshot_download(str(path), allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"checkpoint {str(path)!r}: no such folder, and the Hugging Face hub did not give it ({error})"
        ) from error


def _base_of(folder: Path, named: str, given: str | Path | None) -> Path:
    if given is not None:
        return resolve(given)
    beside = folder / named
    if named and beside.is_dir():
        return beside
    if not named:
        raise ValueError(f"{folder}: adapter_config.json names no base; pass base=")
    try:
        return resolve(named)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{folder}: its base is not to be found; pass base= ({error})") from error


def _first(folder: Path, other: Path, *names: str) -> Path:
    for candidate in (place / name for place in (folder, other) for name in names):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{folder / names[0]}: missing; is this a checkpoint folder?")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint folder, or an error that names the file."""
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data


def _read_statistics(folder: Path, weights: Path, config: Mapping[str, Any]) -> dict[str, Statistics]:
    """dataset_statistics.json, which fine-tuning leaves, wins over config.json's norm_stats."""
    for place in (folder, weights):
        path = place / "dataset_statistics.json"
        if path.is_file():
            source, entries = path.name, read_json(path)
            break
    else:
        source, entries = "norm_stats", config.get("norm_stats") or {}
    return {key: Statistics.from_json(value, f"{source}: {key}") for key, value in entries.items()}
