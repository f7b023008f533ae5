"""Checkpoints in the layout of Prismatic's own training code, of vision-language models and of OpenVLA policies.

A run directory as in TRI-ML/prismatic-vlms and openvla/openvla-7b-prismatic on the hub: config.json (`"model"`, or
`"vla"` with the `base_vlm` from which training began), checkpoints/latest-checkpoint.pt or step-*.pt, and for a policy
dataset_statistics.json. It has no tokenizer (the language model's is used), and no vision weights where the vision
backbone stayed frozen (timm's are used). Only tensors are unpickled. Save with folder.save_folder to convert.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from openvla_policy.checkpoint.checkpoint import Checkpoint, read_json
from openvla_policy.checkpoint.tokenizer import Tokenizer
from openvla_policy.checkpoint.weights import Place, fill, read_pickled
from openvla_policy.contract.image import ImagePreparation
from openvla_policy.contract.statistics import Statistics
from openvla_policy.model.backbones import BASE_MODELS, BaseModel, network_of
from openvla_policy.model.config import OpenVLAConfig
from openvla_policy.model.vit_sizes import VisionGeometry
from openvla_policy.model.vla import OpenVLA

_NORMALISATION = {  # timm's data configurations
    "dinov2": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def shape_of(folder: Path) -> OpenVLAConfig:
    """The network of a run directory, by its config.json; reads no weights."""
    return network_of(_base(read_json(folder / "config.json"), folder))


def load_prismatic(
    path: str | Path,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    *,
    tokenizer: str | Path | None = None,
    vision: Sequence[str | Path] = (),
    step: str | None = None,
    config: OpenVLAConfig | None = None,
    place: Place | None = None,
) -> Checkpoint:
    """Load a run directory. A vision-language model has no statistics: it can be trained, but not act.

    Args:
        path: The run directory.
        dtype: Of the weights.
        device: Where the weights go.
        tokenizer: Folder with the language model's tokenizer (tokenizer.json or tokenizer.model), required where the
            run directory has none.
        vision: timm weight files, one for each encoder in the model's order, required where the checkpoint has no
            vision weights.
        step: Part of the name of one of several checkpoints. None: the latest.
        config: Replaces what config.json says, for models of other sizes.
        place: As of load_folder.

    Returns:
        The checkpoint.

    Raises:
        FileNotFoundError: A file is missing, for example the tokenizer.
        ValueError: The files contradict each other or are of another layout.
    """
    folder = Path(path).expanduser()
    raw = read_json(folder / "config.json")
    base = _base(raw, folder)
    config = config or network_of(base)
    state = read_pickled(_checkpoint_file(folder, step)).get("model")
    if not isinstance(state, dict) or not {"projector", "llm_backbone"} <= set(state):
        found = ", ".join(state) if isinstance(state, dict) else "nothing"
        raise ValueError(f"{folder}: the checkpoint's 'model' needs projector and llm_backbone; it has {found}")
    with torch.device("meta"):
        model = OpenVLA(config)
    renamed = _renamed(state, config, [Path(file) for file in vision], folder)
    fill(model, renamed, str(folder), dtype, device, place=place)
    statistics = folder / "dataset_statistics.json"
    entries = read_json(statistics) if statistics.is_file() else {}
    try:
        words = Tokenizer.from_folder(folder if tokenizer is None else Path(tokenizer))
    except FileNotFoundError as error:
        hub_id = config.extra.get("hf_llm_id", config.llm_backbone_id)
        raise FileNotFoundError(
            f"{folder}: this layout has no tokenizer; pass tokenizer= with a folder that has the one of {hub_id} "
            f"({error})"
        ) from error
    return Checkpoint(
        model=model.eval(),
        config=config,
        tokenizer=words.with_padding(config.pad_token_id),
        preparation=_preparation(config),
        statistics={key: Statistics.from_json(value, f"{statistics.name}: {key}") for key, value in entries.items()},
        path=str(path),
    )


def _base(raw: Mapping[str, Any], folder: Path) -> BaseModel:
    described = raw.get("model")
    if described is None and isinstance(raw.get("vla"), dict):
        name = Path(str(raw["vla"].get("base_vlm"))).name
        if name not in BASE_MODELS:
            known = ", ".join(sorted(BASE_MODELS))
            raise ValueError(f"{folder}/config.json: base_vlm {name!r} is unknown ({known}); pass config=")
        return BASE_MODELS[name]
    if not isinstance(described, dict):
        raise ValueError(f"{folder}/config.json: expected an object 'model' or 'vla'; is this a Prismatic run?")
    names = {f.name for f in fields(BaseModel)}
    absent = sorted(names - set(described))
    if absent:
        raise ValueError(f"{folder}/config.json: 'model' lacks {', '.join(absent)}")
    return BaseModel(**{name: str(described[name]) for name in names})


def _checkpoint_file(folder: Path, step: str | None) -> Path:
    found = sorted((folder / "checkpoints").glob("*.pt"))
    if step is not None:
        matching = [file for file in found if step in file.name]
        if len(matching) != 1:
            names = ", ".join(file.name for file in found) or "none"
            raise FileNotFoundError(f"{folder}/checkpoints: {step!r} names {len(matching)} of the files ({names})")
        return matching[0]
    latest = folder / "checkpoints" / "latest-checkpoint.pt"
    if latest.is_file():
        return latest
    if not found:
        raise FileNotFoundError(f"{folder}/checkpoints: no .pt file")
    return max(found, key=lambda file: [int(number) for number in re.findall(r"\d+", file.name)[:1]])


def _renamed(
    state: Mapping[str, Mapping[str, Tensor]], config: OpenVLAConfig, vision: Sequence[Path], folder: Path
) -> Iterator[tuple[str, Tensor]]:
    """The tensors under the names of the Hugging Face layout."""
    for key, tensor in state["projector"].items():
        match = re.fullmatch(r"projector\.(?:(\d)\.)?(weight|bias)", key)
        if match is None:
            raise ValueError(f"{folder}: unknown projector tensor {key}")
        yield f"projector.fc{int(match[1] or 0) // 2 + 1}.{match[2]}", tensor
    for key, tensor in state["llm_backbone"].items():
        if not key.endswith("rotary_emb.inv_freq"):  # a buffer that older transformers saved
            yield "language_model." + key.removeprefix("llm."), tensor
    towers = ("featurizer", "fused_featurizer")[: len(config.vision)]
    if "vision_backbone" in state:
        first = "featurizer." if len(towers) == 1 else "dino_featurizer."
        for key, tensor in state["vision_backbone"].items():
            tower = towers[0] if key.startswith(first) else towers[-1]
            yield f"vision_backbone.{tower}.{_scale_factor(key.partition('.')[2])}", tensor
        return
    if len(vision) != len(towers):
        ids = ", ".join(geometry.name for geometry in config.vision)
        raise ValueError(
            f"{folder}: the checkpoint has no vision weights (the backbone stayed frozen); pass vision= with "
            f"{len(towers)} timm weight file(s), of {ids}"
        )
    for tower, geometry, file in zip(towers, config.vision, vision, strict=True):
        for key, tensor in read_timm(file, geometry).items():
            yield f"vision_backbone.{tower}.{key}", tensor


def read_timm(file: Path, geometry: VisionGeometry) -> dict[str, Tensor]:
    """Read a timm (or open_clip) weight file, with its position embedding resampled.

    As timm's resample_abs_pos_embed: bicubic with antialiasing over the grid; the tokens before it are unchanged.

    Args:
        file: A .safetensors or pickled file.
        geometry: Sizes of the encoder.

    Returns:
        The encoder's tensors by name.

    Raises:
        ValueError: The position embedding is not a square grid.
    """
    stored = load_file(file) if file.suffix == ".safetensors" else read_pickled(file)
    trunk = "visual.trunk."
    if any(key.startswith(trunk) for key in stored):
        stored = {key.removeprefix(trunk): tensor for key, tensor in stored.items() if key.startswith(trunk)}
    stored = {_scale_factor(key): t for key, t in stored.items() if not key.startswith(("head.", "fc_norm."))}
    front = int(geometry.embed_class and geometry.class_token)
    embedding_1LD = stored["pos_embed"].float()
    side, now = geometry.image_size // geometry.patch, round((embedding_1LD.shape[1] - front) ** 0.5)
    if now * now + front != embedding_1LD.shape[1]:
        raise ValueError(f"{file}: pos_embed {tuple(embedding_1LD.shape)} is not a square grid for {geometry.name}")
    if now != side:
        grid_1DHW = embedding_1LD[:, front:].view(1, now, now, -1).permute(0, 3, 1, 2)
        grid_1DHW = F.interpolate(grid_1DHW, size=(side, side), mode="bicubic", antialias=True)
        grid_1ND = grid_1DHW.permute(0, 2, 3, 1).reshape(1, side * side, -1)
        stored["pos_embed"] = torch.cat([embedding_1LD[:, :front], grid_1ND], dim=1)
    return stored


def _scale_factor(key: str) -> str:
    return re.sub(r"\.gamma$", ".scale_factor", key)


def _preparation(config: OpenVLAConfig) -> ImagePreparation:
    pairs = [next(v for k, v in _NORMALISATION.items() if k in geometry.name) for geometry in config.vision]
    strategy: Any = config.image_resize_strategy
    return ImagePreparation(
        size=(config.image_size, config.image_size),
        means=tuple(mean for mean, _ in pairs),
        stds=tuple(std for _, std in pairs),
        strategy=strategy,
    )
