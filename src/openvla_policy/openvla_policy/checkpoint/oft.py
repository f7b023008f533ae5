"""The heads of an OpenVLA-OFT checkpoint, read and written: files beside those of the Hugging Face layout.

Layout (openvla-oft: vla-scripts/finetune.py, save_training_checkpoint): the usual folder with the merged weights, or
only `lora_adapter/`; `action_head--STEP_checkpoint.pt` and `proprio_projector--STEP_checkpoint.pt`, their keys prefixed
`module.` where training was distributed; dataset_statistics.json with statistics of the proprioception. The layout does
not say how many images a policy reads and how many actions it gives. Folders written here have both in config.json
(`"oft"`); for others they follow from the name of the statistics, or the user gives them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openvla_policy.checkpoint.checkpoint import Checkpoint, resolve
from openvla_policy.checkpoint.folder import save_folder
from openvla_policy.checkpoint.weights import read_pickled
from openvla_policy.model.heads import OFTConfig, OFTHeads

_PLATFORMS: dict[str, dict[str, Any]] = {  # openvla-oft: prismatic/vla/constants.py; LIBERO.md for the images
    "libero": {"images": 2, "chunk": 8},
    "bridge": {"chunk": 5},
}
_CAMERAS: dict[int, tuple[str, ...]] = {1: (), 2: ("wrist",), 3: ("left_wrist", "right_wrist")}


def is_oft(folder: Path) -> bool:
    """Whether the checkpoint in `folder` has OFT heads, by its files or its config.json."""
    if any(folder.glob("*--*checkpoint.pt")):
        return True
    path = folder / "config.json"
    return path.is_file() and '"oft"' in path.read_text() and "oft" in json.loads(path.read_text())


def load_heads(
    path: str | Path,
    checkpoint: Checkpoint,
    *,
    images: int | None = None,
    chunk: int | None = None,
    cameras: Sequence[str] | None = None,
) -> OFTHeads:
    """Load the heads of an OFT checkpoint. Unpickles tensors only.

    Args:
        path: The checkpoint's folder or hub id.
        checkpoint: The loaded checkpoint; the heads take the dtype and device of its embeddings.
        images: Images that the policy reads. None, here and below: what the folder says.
        chunk: Actions that it gives.
        cameras: Names of the images beyond the first (see OFTConfig).

    Returns:
        The heads.

    Raises:
        FileNotFoundError: config.json mentions a head whose file is missing.
        ValueError: The heads are of an unsupported kind, do not fit the model, or their sizes are unknown.
    """
    folder = resolve(path)
    for part, what in (("vision_backbone", "FiLM-conditioned vision"), ("noisy_action_projector", "a diffusion head")):
        if _part(folder, part):
            raise ValueError(f"{folder}: {_part(folder, part)} means {what}, which is not supported; only L1 heads are")
    head, projector = (_read(folder, part) for part in ("action_head", "proprio_projector"))
    if any("noise_predictor" in name for name in head or {}):
        raise ValueError(f"{folder}: its action head denoises (diffusion), which is not supported; only L1 heads are")
    known = dict(checkpoint.config.extra.get("oft") or _platform(checkpoint.statistics))
    for part, wanted, found in (
        ("action_head", known.get("regression"), head),
        ("proprio_projector", known.get("proprio"), projector),
    ):
        if wanted and found is None:
            raise FileNotFoundError(f"{folder}: config.json mentions OFT heads, but {part}--*_checkpoint.pt is missing")
    count = images if images is not None else known.get("images")
    length = chunk if chunk is not None else known.get("chunk")
    if count is None or length is None:
        raise ValueError(
            f"{folder}: neither config.json nor the statistics' names ({', '.join(sorted(checkpoint.statistics))}) "
            "say how many images this policy reads and how many actions it gives; pass images= and chunk="
        )
    names = tuple(cameras if cameras is not None else known.get("cameras") or _CAMERAS.get(int(count), ()))
    config = OFTConfig(
        images=int(count),
        chunk=int(length),
        proprio=projector["fc1.weight"].shape[1] if projector else 0,
        regression=head is not None,
        cameras=names,
    )
    embeddings = checkpoint.model.language_model.model.embed_tokens.weight
    with torch.device("meta"):
        heads = OFTHeads(config, embeddings.shape[1])
    state = {f"action_head.{name.removeprefix('model.')}": tensor for name, tensor in (head or {}).items()}
    state |= {f"proprio_projector.{name}": tensor for name, tensor in (projector or {}).items()}
    state = {name: tensor.to(embeddings.device, embeddings.dtype) for name, tensor in state.items()}
    try:
        heads.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the OFT heads do not fit the model: {error}") from error
    return heads.eval()


def save_oft_folder(
    path: str | Path, checkpoint: Checkpoint, heads: OFTHeads, step: int = 0, dtype: torch.dtype = torch.bfloat16
) -> None:
    """Write a checkpoint folder with its heads in the layout of the OFT code, and their sizes in config.json."""
    sizes = asdict(heads.config) | {"cameras": list(heads.config.cameras)}
    extra = dict(checkpoint.config.extra) | {"oft": sizes}
    save_folder(path, replace(checkpoint, config=replace(checkpoint.config, extra=extra)), dtype)
    for stale in Path(path).glob("*--*checkpoint.pt"):
        stale.unlink()
    for name, module, prefix in (
        ("action_head", heads.action_head, "model."),
        ("proprio_projector", heads.proprio_projector, ""),
    ):
        if module is not None:
            state = {f"{prefix}{key}": value.detach().to("cpu", dtype) for key, value in module.state_dict().items()}
            torch.save(state, Path(path) / f"{name}--{step}_checkpoint.pt")


def _part(folder: Path, name: str) -> str | None:
    """Name of the file of one part, or None. Two files of one part are ambiguous, hence a ValueError."""
    found = sorted(file.name for file in folder.glob(f"{name}--*checkpoint.pt"))
    if len(found) > 1:
        raise ValueError(f"{folder}: several {name} files ({', '.join(found)}); keep one")
    return found[0] if found else None


def _read(folder: Path, name: str) -> dict[str, Tensor] | None:
    file = _part(folder, name)
    return None if file is None else read_pickled(folder / file)


def _platform(names: Iterable[str]) -> dict[str, Any]:
    for platform, sizes in _PLATFORMS.items():
        if any(platform in name.lower() for name in names):
            return sizes
    return {}
