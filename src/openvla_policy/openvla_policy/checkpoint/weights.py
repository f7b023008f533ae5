"""Tensors of a checkpoint folder: one safetensors file or several with an index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..model.vla import OpenVLA

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of `folder`, all of them present."""
    if (folder / _INDEX).is_file():
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
        absent = [name for name in names if not (folder / name).is_file()]
        if absent:
            raise FileNotFoundError(f"{folder}: {_INDEX} names {', '.join(absent)}, which are missing")
        return [folder / name for name in names]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    raise FileNotFoundError(f"{folder}: neither {_SINGLE} nor {_INDEX}; is this a checkpoint folder?")


def read_tensors(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) one at a time, as stored."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


Edit = Callable[[Tensor], Tensor]


def load_weights(
    model: OpenVLA,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    edits: Mapping[str, Edit] | None = None,
) -> None:
    """Fill a model built on the meta device, one tensor at a time: no second copy is ever held.

    `edits` maps a name to a function of the float32 tensor (how adapters are merged in passing).
    """
    expected = model.state_dict()
    tied = model.config.text.tie_word_embeddings
    wrong: list[str] = []
    seen: set[str] = set()
    for name, tensor in read_tensors(folder):
        if name not in expected:
            wrong.append(f"unexpected {name}")
            continue
        if tensor.shape != expected[name].shape:
            wrong.append(f"{name} is {tuple(tensor.shape)}, not {tuple(expected[name].shape)}")
            seen.add(name)
            continue
        if edits and name in edits:
            tensor = edits[name](tensor.float())
        seen.add(name)
        _assign(model, name, tensor.to(device=device, dtype=dtype))
    if tied and "language_model.lm_head.weight" not in seen:
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
        seen.add("language_model.lm_head.weight")
    wrong += [f"missing {name}" for name in expected if name not in seen]
    if wrong:
        shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"{folder}: the weights do not fit config.json: {shown}")


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def save_weights(model: OpenVLA, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 10**9) -> None:
    """Write the weights as `dtype`, in as many files as their size asks for."""
    shards: list[dict[str, Tensor]] = [{}]
    size = total = 0
    for name, tensor in model.state_dict().items():
        if name == "language_model.lm_head.weight" and model.config.text.tie_word_embeddings:
            continue  # one tensor under two names: safetensors stores it once
        stored = tensor.detach().to(device="cpu", dtype=dtype).contiguous()
        if size and size + stored.nbytes > shard_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = stored
        size += stored.nbytes
        total += stored.nbytes
    for stale in [*folder.glob("model*.safetensors"), folder / _INDEX]:
        stale.unlink(missing_ok=True)
    if len(shards) == 1:
        _write(shards[0], folder / _SINGLE)
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(shard, folder / file)
        weight_map |= {name: file for name in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves 0600, which a shared folder or an image does not want
