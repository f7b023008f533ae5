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
    """A policy with everything needed to run it.

    Attributes:
        model: The network.
        config: Its configuration.
        tokenizer: The text tokenizer.
        preparation: How images become pixels.
        statistics: By dataset name (`unnorm_key`).
        path: Where it was loaded from.
    """

    model: OpenVLA
    config: OpenVLAConfig
    tokenizer: Tokenizer
    preparation: ImagePreparation
    statistics: dict[str, Statistics]
    path: str = ""

    @property
    def action_tokenizer(self) -> ActionTokenizer:
        """The action tokens at the end of this vocabulary."""
        return ActionTokenizer(self.config.action_vocab_size, self.config.n_action_bins)


def resolve(path: str | Path) -> Path:
    """Find a checkpoint folder.

    Args:
        path: A local folder, or a hub id (`owner/name`), which is downloaded into the hub's cache unless it is there.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: There is no such folder, and the hub has no such checkpoint or is out of reach.
    """
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
            f"checkpoint {str(path)!r}: no such folder, and not available from the Hugging Face hub ({error})"
        ) from error


def find_base(folder: Path, named: str, given: str | Path | None = None) -> Path:
    """Find the base model of an adapter.

    Args:
        folder: The adapter's folder.
        named: The base in its adapter_config.json; a path may be relative to `folder`.
        given: The base that the user gives instead.

    Returns:
        The base's folder.

    Raises:
        FileNotFoundError: The base does not exist.
        ValueError: Nobody names a base.
    """
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
        raise FileNotFoundError(f"{folder}: its base is missing; pass base= ({error})") from error


def find_file(folder: Path, base: Path, *names: str) -> Path:
    """The first of `names` that exists in `folder`, else in `base`; FileNotFoundError if there is none."""
    for candidate in (place / name for place in (folder, base) for name in names):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"{folder / names[0]}: missing; is this a checkpoint folder?")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; the ValueError for anything else names the file."""
    try:
        data = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected a JSON object, found a {type(data).__name__}")
    return data


def read_statistics(folder: Path, base: Path, config: Mapping[str, Any]) -> dict[str, Statistics]:
    """Read the statistics of a checkpoint by dataset name.

    Args:
        folder: The checkpoint's folder.
        base: The folder of its weights, if that is another.
        config: Its config.json.

    Returns:
        Those of dataset_statistics.json, which fine-tuning writes, else of config.json's norm_stats.
    """
    for place in (folder, base):
        path = place / "dataset_statistics.json"
        if path.is_file():
            source, entries = path.name, read_json(path)
            break
    else:
        source, entries = "norm_stats", config.get("norm_stats") or {}
    return {key: Statistics.from_json(value, f"{source}: {key}") for key, value in entries.items()}
