"""Resume states of a run: folders of sharded tensors (torch.distributed.checkpoint) for any number of processes.

`states/step-N` is replaced atomically. The last few states and the best one are kept.

Optimizer states are stored per parameter and entry (`optimizer.PARAMETER.exp_avg`). torch's `get_optimizer_state_dict`
does not fit: it nests the tensors of bitsandbytes' 8-bit optimizers, and adds states for parameters without gradients.
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

from openvla_training.trainer.parallel import CHECKPOINT_WRAPPED, World

_FACTS = "run.json"


@dataclass(frozen=True)
class State:
    """One resume state.

    Attributes:
        folder: Its folder.
        facts: Contents of its run.json: `step`, `run`, `metrics`, `losses`, `source`, …
    """

    folder: Path
    facts: Mapping[str, Any]

    @property
    def score(self) -> tuple[float, float]:
        """Order of quality: validation accuracy, then loss; a state without validation is the worst."""
        metrics = self.facts.get("metrics") or {"accuracy": -1.0, "loss": 0.0}
        return metrics["accuracy"], -metrics["loss"]


def states(place: Path) -> list[State]:
    """The resume states in the folder `place`, oldest first."""
    folders = [path for path in place.glob("step-*") if re.fullmatch(r"step-\d+", path.name)]  # not step-9.unfinished
    found = [
        State(path, json.loads((path / _FACTS).read_text("utf-8"))) for path in folders if (path / _FACTS).is_file()
    ]
    return sorted(found, key=lambda state: state.facts["step"])


def save_state(
    place: Path,
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    facts: Mapping[str, Any],
    world: World,
    keep_last: int,
) -> None:
    """Write a resume state; all processes must call this.

    Args:
        place: Folder of the run's states.
        model: Its trained parameters are written.
        optimizers: Their states are written.
        facts: Further contents of run.json: `step`, `metrics`, and `run`, which describes what must not change until
            the run is resumed.
        world: The processes of the run.
        keep_last: Number of states to keep besides the best one.

    Raises:
        OSError: The state could not be written.
    """
    folder = place / f"step-{facts['step']}"
    unfinished = folder.with_name(folder.name + ".unfinished")
    if world.is_main:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    world.barrier()
    tensors, numbers = _optimizer_state(model, optimizers)
    tensors |= {f"model.{name}": p.detach() for name, p in trained_parameters(model).items()}
    try:
        with _single_process(world) as no_dist:
            dcp.save(tensors, checkpoint_id=str(unfinished), no_dist=no_dist)
    except CheckpointException as error:  # which torch derives from BaseException
        raise OSError(f"{folder}: the state could not be written ({_cause(error)}); is the disk full?") from error
    world.barrier()
    if world.is_main:
        text = json.dumps({**facts, "processes": world.size, "optimizer_numbers": numbers})
        (unfinished / _FACTS).write_text(text, "utf-8")
        old = folder.with_name(folder.name + ".old")
        if folder.exists():  # a state of the same step; it is removed only after the new one is in place
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(unfinished, folder)
        shutil.rmtree(old, ignore_errors=True)
        found = states(place)
        best = max(found, key=lambda state: state.score)
        for state in found[:-keep_last]:
            if state is not best:
                shutil.rmtree(state.folder)
    world.barrier()


def load_state(
    state: State, model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], run: str, world: World
) -> None:
    """Restore a resume state; all processes must call this.

    Args:
        state: The state.
        model: Receives the parameters.
        optimizers: Receive their states; empty: only the parameters are restored.
        run: Description of the present run; it must equal the saved one.
        world: The processes of the run.

    Raises:
        ValueError: The state belongs to another run (data, batch size, seed, strategy), or is damaged.
    """
    described = state.facts["run"]
    if described != run:
        raise ValueError(
            f"{state.folder} belongs to a run on other samples or parameters (saved: {described}; now: {run}); "
            f"choose another output.folder, or remove {state.folder.parent} to start again"
        )
    parameters = trained_parameters(model)
    wanted: dict[str, Any] = {f"model.{name}": p.detach() for name, p in parameters.items()}
    try:
        stored = dcp.FileSystemReader(str(state.folder)).read_metadata().state_dict_metadata
        if {key for key in stored if key.startswith("model.")} != set(wanted):
            raise ValueError("its parameters are not the trained ones")
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
        with _single_process(world) as no_dist:
            dcp.load(wanted, checkpoint_id=str(state.folder), no_dist=no_dist)
    except (Exception, CheckpointException) as error:  # torch raises several types for a damaged file
        raise ValueError(
            f"{state.folder}: not a readable resume state of this run ({_cause(error)}); remove it to resume from an "
            "earlier one, or to start again"
        ) from error
    if optimizers:
        _restore_optimizers(parameters, optimizers, wanted, state.facts["optimizer_numbers"])


@contextmanager
def _single_process(world: World) -> Iterator[bool]:
    """Whether this is the only process, for torch's `no_dist`; torch's warning about that is suppressed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield world.size == 1


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters with gradients, by their names in a model without wrappers."""
    return {name.replace(f"{CHECKPOINT_WRAPPED}.", ""): p for name, p in model.named_parameters() if p.requires_grad}


def _optimizer_state(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tensors and the plain numbers of the optimizers' states, as `optimizer.PARAMETER.ENTRY`."""
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
    """The last line of a message: torch puts other processes' tracebacks before it."""
    return (str(error) or type(error).__name__).strip().splitlines()[-1].strip()
