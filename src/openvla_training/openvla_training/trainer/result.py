"""What a run leaves: one Hugging Face folder, with the data's statistics inside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openvla_policy.checkpoint.folder import Checkpoint, save_folder
from openvla_policy.checkpoint.merge import merge_folder
from openvla_training.trainer.config import TrainConfig


def save_result(checkpoint: Checkpoint, config: TrainConfig, adapter: Any, folder: Path) -> Path:
    """Write the trained policy. Of an adapter: also the adapter itself, beside `folder`, merged into its base there.

    The merge reads the base anew, tensor by tensor, and adds in float32: what was rounded or quantised for training
    leaves no trace in the result.
    """
    if adapter is None:
        save_folder(folder, checkpoint)
        return folder
    assert config.checkpoint is not None
    beside = folder.with_name("adapter")
    adapter.peft_config["default"].base_model_name_or_path = str(Path(config.checkpoint).absolute())
    adapter.save_pretrained(str(beside))
    merge_folder(beside, folder, base=config.checkpoint, statistics=checkpoint.statistics)
    return folder
