"""What a run leaves: one Hugging Face folder, with the data's statistics inside."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from openvla_policy.checkpoint.checkpoint import Checkpoint
from openvla_policy.checkpoint.folder import save_folder
from openvla_policy.checkpoint.library_logs import without_peft_guesses
from openvla_policy.checkpoint.merge import merge_folder
from openvla_policy.checkpoint.weights import fill
from openvla_policy.model.vla import OpenVLA
from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.parallel import World, whole

ADAPTERS = {"checkpoint": "adapter"}  # by the name of the folder that has it merged


def save_result(checkpoint: Checkpoint, config: TrainConfig, adapter: Any, folder: Path, world: World) -> Path:
    """Write the trained policy. Of an adapter: also the adapter itself, in a folder beside `folder`.

    All processes call it, the first one writes. An adapter's merge reads the base anew, tensor by tensor, and adds in
    float32: what was rounded or quantised for training leaves no trace in the result.
    """
    if world.size > 1:
        gathered = {}
        for name, tensor in checkpoint.model.state_dict().items():
            full = whole(tensor.detach()) if adapter is None or "lora_" in name else None
            if world.first and full is not None:
                gathered[name] = full.cpu()
    if world.first:
        unfinished = folder.with_name(folder.name + ".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        if adapter is None:
            if world.size > 1:
                with torch.device("meta"):
                    model = OpenVLA(checkpoint.config)
                fill(model, gathered.items(), "the gathered weights", torch.float32, "cpu")
                checkpoint = replace(checkpoint, model=model)
            save_folder(unfinished, checkpoint)
        else:
            assert config.checkpoint is not None
            beside = folder.with_name(ADAPTERS.get(folder.name, f"{folder.name}_adapter"))
            adapter.peft_config["default"].base_model_name_or_path = str(Path(config.checkpoint).absolute())
            state = None
            if world.size > 1:
                state = {f"base_model.model.{name}": tensor for name, tensor in gathered.items()}
            half = beside.with_name(beside.name + ".unfinished")
            shutil.rmtree(half, ignore_errors=True)
            with without_peft_guesses():
                adapter.save_pretrained(str(half), state_dict=state)
            _put(half, beside)
            merge_folder(beside, unfinished, base=config.checkpoint, statistics=checkpoint.statistics)
        text = json.dumps(asdict(config), indent=2, default=str)
        (unfinished / "training.json").write_text(text + "\n", "utf-8")
        _put(unfinished, folder)
    world.wait()
    return folder


def _put(unfinished: Path, folder: Path) -> None:
    """Give a written folder its name; one of an earlier run makes place."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
