"""The checkpoint folder as a value: its paths, its base, its statistics."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.contract.action_tokens import ActionTokenizer
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vla import OpenVLA


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
