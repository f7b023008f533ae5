"""Writes the trained policy: a Hugging Face folder with the statistics of its data."""

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
from openvla_training.trainer.parallel import World, gather_tensor

ADAPTER_FOLDERS = {"checkpoint": "adapter"}  # by the name of the folder with the merged policy


def export_policy(checkpoint: Checkpoint, config: TrainConfig, adapter: Any, folder: Path, world: World) -> Path:
    """Write the trained policy, and an adapter also by itself in a folder beside it; all processes must call this.

    The merge of an adapter reads the original base again, tensor by tensor, and adds in float32: no rounding or
    quantisation of the training is in the result.

    Args:
        checkpoint: The trained model.
        config: The run; it is written as training.json.
        adapter: The peft wrapper of an adapter, or None.
        folder: Folder to write; an existing one is replaced.
        world: The processes of the run; the main one writes.

    Returns:
        The folder.
    """
    if world.size > 1:
        gathered = {}
        for name, tensor in checkpoint.model.state_dict().items():
            full = gather_tensor(tensor.detach()) if adapter is None or "lora_" in name else None
            if world.is_main and full is not None:
                gathered[name] = full.cpu()
    if world.is_main:
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
            base = config.model.checkpoint
            assert base is not None
            beside = folder.with_name(ADAPTER_FOLDERS.get(folder.name, f"{folder.name}_adapter"))
            adapter.peft_config["default"].base_model_name_or_path = str(Path(base).absolute())
            state = None
            if world.size > 1:
                state = {f"base_model.model.{name}": tensor for name, tensor in gathered.items()}
            half = beside.with_name(beside.name + ".unfinished")
            shutil.rmtree(half, ignore_errors=True)
            with without_peft_guesses():
                adapter.save_pretrained(str(half), state_dict=state)
            _replace(half, beside)
            merge_folder(beside, unfinished, base=base, statistics=checkpoint.statistics)
        text = json.dumps(asdict(config), indent=2, default=str)
        (unfinished / "training.json").write_text(text + "\n", "utf-8")
        _replace(unfinished, folder)
    world.barrier()
    return folder


def _replace(unfinished: Path, folder: Path) -> None:
    """Give a completely written folder its name, in place of that of an earlier run."""
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(unfinished, folder)
