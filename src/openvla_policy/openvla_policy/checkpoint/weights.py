"""Tensors of a checkpoint folder: one safetensors file or several with an index."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from openvla_policy.model.vla import OpenVLA

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint folder; FileNotFoundError unless all of them exist."""
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
    """Iterate over (name, tensor) as stored."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error


Edit = Callable[[Tensor], Tensor]
# Puts a tensor into the model in another way, for example quantised; False: assign it as all others.
Place = Callable[[nn.Module, str, Tensor], bool]


def load_weights(
    model: OpenVLA,
    folder: Path,
    dtype: torch.dtype,
    device: torch.device | str,
    edits: Mapping[str, Edit] | None = None,
    place: Place | None = None,
) -> None:
    """Fill a model built on the meta device, tensor by tensor, without a second copy of the weights.

    Args:
        model: The model.
        folder: Folder with safetensors files.
        dtype: Of the weights.
        device: Where the weights go.
        edits: Weight name to a function of its float32 tensor, by which adapters are merged.
        place: Gets each tensor, on the CPU, first; by it weights are quantised.
    """
    fill(model, read_tensors(folder), str(folder), dtype, device, edits, place)


def fill(
    model: OpenVLA,
    tensors: Iterable[tuple[str, Tensor]],
    source: str,
    dtype: torch.dtype,
    device: torch.device | str,
    edits: Mapping[str, Edit] | None = None,
    place: Place | None = None,
) -> None:
    """As `load_weights`, from any stream of named tensors; errors name `source`."""
    expected = model.state_dict()
    tied = model.config.text.tie_word_embeddings
    wrong: list[str] = []
    seen: set[str] = set()
    for name, tensor in tensors:
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
        if place is None or not place(model, name, tensor):
            # A copy beside quantised weights: a view would keep its whole shard in memory.
            assign(model, name, tensor.to(device=device, dtype=dtype, copy=place is not None))
    if tied and "language_model.lm_head.weight" not in seen:
        model.language_model.lm_head.weight = model.language_model.model.embed_tokens.weight
        seen.add("language_model.lm_head.weight")
    wrong += [f"missing {name}" for name in expected if name not in seen]
    if wrong:
        first = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"{source}: the weights do not fit config.json: {first}")


def assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    """Make `tensor` the parameter `name` of `model`."""
    path, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(path), leaf, nn.Parameter(tensor, requires_grad=tensor.is_floating_point()))


def save_weights(model: OpenVLA, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 10**9) -> None:
    """Write the weights of a model.

    Args:
        model: The model.
        folder: The folder to write to.
        dtype: Of the written weights.
        shard_bytes: Size of a file; larger models are written in several.

    Raises:
        ValueError: The model is quantised, which the layout cannot represent.
    """
    for name, parameter in model.named_parameters():
        if type(parameter).__module__.split(".")[0] in ("bitsandbytes", "torchao"):
            kind = type(parameter).__name__
            raise ValueError(f"{name} is quantised ({kind}): copy the checkpoint it was loaded from instead")
    tied = model.config.text.tie_word_embeddings
    with WeightWriter(folder, dtype, shard_bytes) as writer:
        for name, tensor in model.state_dict().items():
            if not (tied and name == "language_model.lm_head.weight"):  # one tensor: safetensors stores it once
                writer.add(name, tensor)


class WeightWriter:
    """Writes named tensors as `dtype`, holding one file at a time. Replaces the folder's weights when it exits."""

    def __init__(self, folder: Path, dtype: torch.dtype, shard_bytes: int = 5 * 10**9) -> None:
        self._folder, self._dtype, self._shard_bytes = folder, dtype, shard_bytes
        self._written: list[tuple[Path, list[str]]] = []
        self._shard: dict[str, Tensor] = {}
        self._size = self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Append a tensor."""
        stored = tensor.detach().to(device="cpu", dtype=self._dtype).contiguous()
        if self._size and self._size + stored.nbytes > self._shard_bytes:
            self._close_shard()
        self._shard[name] = stored
        self._size += stored.nbytes
        self._total += stored.nbytes

    def __enter__(self) -> WeightWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            for path, _names in self._written:
                path.unlink()
            return
        self._close_shard()
        for stale in [*self._folder.glob("model*.safetensors"), self._folder / _INDEX]:
            stale.unlink(missing_ok=True)
        if len(self._written) == 1:
            self._written[0][0].rename(self._folder / _SINGLE)
            return
        weight_map: dict[str, str] = {}
        for number, (path, names) in enumerate(self._written, 1):
            file = f"model-{number:05d}-of-{len(self._written):05d}.safetensors"
            path.rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
        (self._folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")

    def _close_shard(self) -> None:
        # Under a name that no reader expects, until the number of files is known.
        path = self._folder / f"unfinished-{len(self._written)}.safetensors"
        _write(self._shard, path)
        self._written.append((path, list(self._shard)))
        self._shard, self._size = {}, 0


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes 0600, too strict for a shared folder or a container image


def read_pickled(path: Path) -> dict[str, Any]:
    """Read a file of torch.save, unpickling only tensors, numbers and strings.

    Args:
        path: The file.

    Returns:
        Named tensors, possibly in nested dictionaries, without the prefix `module.` of distributed training.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged or has other contents.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError:
        raise
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError ... by kind of damage
        raise ValueError(f"{path}: not a file of tensors ({type(error).__name__}: {error})") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: expected named tensors, found a {type(state).__name__}")
    return {str(name).removeprefix("module."): value for name, value in state.items()}
