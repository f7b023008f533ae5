"""The heads of an OpenVLA-OFT checkpoint: what stands beside the Hugging Face folder, read and written.

Layout (openvla-oft: vla-scripts/finetune.py, save_training_checkpoint): the usual folder with the merged weights, or
only `lora_adapter/`; `action_head--STEP_checkpoint.pt`, `proprio_projector--STEP_checkpoint.pt`, their keys prefixed
`module.` where training was distributed; dataset_statistics.json with statistics of the proprioception. How many
images a policy takes and how many actions it gives are nowhere in it; this package's folders carry them in
config.json (`"oft"`), others are known by the name of their statistics or need to be told.
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
    """Whether heads lie beside the checkpoint in `folder`, or its config.json speaks of some."""
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
    """The heads of the OFT checkpoint at `path`, in the precision and on the device of `checkpoint`'s embeddings.

    `images`, `chunk` and `cameras` (see OFTConfig) win over what the folder says. Nothing but tensors is unpickled.
    """
    folder = resolve(path)
    for part, what in (("vision_backbone", "FiLM-conditioned vision"), ("noisy_action_projector", "a diffusion head")):
        if _part(folder, part):
            raise ValueError(f"{folder}: {_part(folder, part)} means {what}, which is not supported; only L1 heads are")
    head, projector = (_read(folder, part) for part in ("action_head", "proprio_projector"))
    if any("noise_predictor" in name for name in head or {}):
        raise ValueError(f"{folder}: its action head denoises (diffusion), which is not supported; only L1 heads are")
    told = dict(checkpoint.config.extra.get("oft") or _platform(checkpoint.statistics))
    for part, wanted, found in (
        ("action_head", told.get("regression"), head),
        ("proprio_projector", told.get("proprio"), projector),
    ):
        if wanted and found is None:
            raise FileNotFoundError(
                f"{folder}: config.json speaks of OFT heads, but {part}--*_checkpoint.pt is missing"
            )
    count = images if images is not None else told.get("images")
    length = chunk if chunk is not None else told.get("chunk")
    if count is None or length is None:
        raise ValueError(
            f"{folder}: neither config.json nor the statistics' names ({', '.join(sorted(checkpoint.statistics))}) "
            "tell how many images this policy takes and how many actions it gives; pass images= and chunk="
        )
    names = tuple(cameras if cameras is not None else told.get("cameras") or _CAMERAS.get(int(count), ()))
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
    """Write the folder with its heads as the OFT code saves and finds them, and their sizes in config.json."""
    told = asdict(heads.config) | {"cameras": list(heads.config.cameras)}
    extra = dict(checkpoint.config.extra) | {"oft": told}
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
    """The file of one part; there must not be two, as nobody could say which is meant."""
    found = sorted(file.name for file in folder.glob(f"{name}--*checkpoint.pt"))
    if len(found) > 1:
        raise ValueError(f"{folder}: several {name} files ({', '.join(found)}); keep the one that is meant")
    return found[0] if found else None


def _read(folder: Path, name: str) -> dict[str, Tensor] | None:
    file = _part(folder, name)
    return None if file is None else read_pickled(folder / file)


def _platform(names: Iterable[str]) -> dict[str, Any]:
    for platform, told in _PLATFORMS.items():
        if any(platform in name.lower() for name in names):
            return told
    return {}
