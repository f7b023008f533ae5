"""The resume states of a run: folders of sharded tensors that any number of processes can read back.

`states/step-N` appears whole or not at all. Of the states the last few are kept, and the best.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from openvla_training.trainer.parallel import WRAPPED, World

_FACTS = "run.json"


@dataclass(frozen=True)
class State:
    """One folder of a run, with what its run.json says."""

    folder: Path
    facts: Mapping[str, Any]

    @property
    def score(self) -> tuple[float, float]:
        """Greater is better: accuracy in validation, then loss. Of a state that was not validated the least."""
        metrics = self.facts.get("metrics") or {"accuracy": -1.0, "loss": 0.0}
        return metrics["accuracy"], -metrics["loss"]


def states(place: Path) -> list[State]:
    """Those there are, oldest first."""
    found = []
    for folder in place.glob("step-*"):
        if re.fullmatch(r"step-\d+", folder.name) and (folder / _FACTS).is_file():
            found.append(State(folder, json.loads((folder / _FACTS).read_text("utf-8"))))
    return sorted(found, key=lambda state: state.facts["step"])


def save_state(
    place: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    facts: Mapping[str, Any],
    world: World,
    keep_last: int,
) -> None:
    """Write trained parameters, optimizer states and `facts` (`step`, `run`, `metrics`, …); all processes call it.

    `run` describes what must not change between now and the resumption.

    Raises:
        OSError: it could not be written.
    """
    folder = place / f"step-{facts['step']}"
    unfinished = folder.with_name(folder.name + ".unfinished")
    if world.first:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    world.wait()
    tensors, numbers = _optimizer_state(model, optimizers)
    tensors |= {f"model.{name}": p.detach() for name, p in trained_parameters(model).items()}
    try:
        with _alone(world) as no_dist:
            dcp.save(tensors, checkpoint_id=str(unfinished), no_dist=no_dist)
    except CheckpointException as error:  # not an Exception, to torch
        raise OSError(f"{folder}: the state could not be written ({_cause(error)}); is the disk full?") from error
    world.wait()
    if world.first:
        text = json.dumps({**facts, "processes": world.size, "optimizer_numbers": numbers})
        (unfinished / _FACTS).write_text(text, "utf-8")
        old = folder.with_name(folder.name + ".old")
        if folder.exists():  # of this very step, saved without figures, or damaged: gone only when the new one is there
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(unfinished, folder)
        shutil.rmtree(old, ignore_errors=True)
        there = states(place)
        best = max(there, key=lambda state: state.score)
        for state in there[:-keep_last]:
            if state is not best:
                shutil.rmtree(state.folder)
    world.wait()


def load_state(
    state: State, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: str, world: World
) -> None:
    """Put a saved state back into `model` and `optimizers` (none: the parameters alone); all processes call it.

    Raises:
        ValueError: the state is of another run (other data, batch size, seed, strategy), or damaged.
    """
    described = state.facts["run"]
    if described != run:
        raise ValueError(
            f"{state.folder} belongs to a run on other samples or parameters (there: {described}; now: {run}); "
            f"choose another output, or remove {state.folder.parent} to begin anew"
        )
    parameters = trained_parameters(model)
    wanted: dict[str, Any] = {f"model.{name}": p.detach() for name, p in parameters.items()}
    try:
        stored = dcp.FileSystemReader(str(state.folder)).read_metadata().state_dict_metadata
        if {key for key in stored if key.startswith("model.")} != set(wanted):
            raise ValueError("its parameters are not those trained now")
        for key, entry in stored.items():
            if key.startswith("optimizer.") and optimizers and isinstance(entry, TensorStorageMetadata):
                parameter = parameters[_parameter_of(key)]
                dtype = entry.properties.dtype
                alike = entry.size == parameter.shape
                wanted[key] = (
                    torch.zeros_like(parameter, dtype=dtype, requires_grad=False)
                    if alike
                    else torch.zeros(entry.size, dtype=dtype, device=parameter.device)
                )
        with _alone(world) as no_dist:
            dcp.load(wanted, checkpoint_id=str(state.folder), no_dist=no_dist)
    except (Exception, CheckpointException) as error:  # torch raises several kinds for a damaged file
        raise ValueError(
            f"{state.folder}: not a readable resume state of this run ({_cause(error)}); remove it to go on from "
            "an earlier one, or from the beginning"
        ) from error
    if optimizers:
        _restore_optimizers(parameters, optimizers, wanted, state.facts["optimizer_numbers"])


@contextmanager
def _alone(world: World) -> Iterator[bool]:
    """Whether this is the only process; torch's warning that it is one is left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield world.size == 1


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """By the names that they have in a model without wrappers."""
    return {name.replace(f"{WRAPPED}.", ""): p for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_state(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors, and plain numbers, as `optimizer.PARAMETER.ENTRY`."""
    tensors: dict[str, Any] = {}
    numbers: dict[str, Any] = {}
    names = {id(p): name for name, p in trained_parameters(model).items()}
    for optimizer in optimizers:
        for parameter, entries in optimizer.state.items():
            for entry, value in entries.items():
                (tensors if isinstance(value, Tensor) else numbers)[f"optimizer.{names[id(parameter)]}.{entry}"] = value
    return tensors, numbers


def _restore_optimizers(
    parameters: Mapping[str, nn.Parameter],
    optimizers: Sequence[torch.optim.Optimizer],
    tensors: Mapping[str, Any],
    numbers: Mapping[str, Any],
) -> None:
    owner = {id(p): optimizer for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    for key, value in (*tensors.items(), *numbers.items()):
        if key.startswith("optimizer."):
            parameter = parameters[_parameter_of(key)]
            owner[id(parameter)].state[parameter][key.rpartition(".")[2]] = value


def _parameter_of(key: str) -> str:
    return key.removeprefix("optimizer.").rpartition(".")[0]


def _cause(error: BaseException) -> str:
    """The last line: torch puts the other processes' tracebacks before it."""
    return (str(error) or type(error).__name__).strip().splitlines()[-1].strip()
