"""Training runs of a tiny model on the toy dataset, which take seconds."""

from __future__ import annotations

from pathlib import Path

from openvla_training.trainer.config import TrainConfig
from openvla_training.trainer.read_config import MOVED, load_config
from openvla_training.trainer.trainer import Trainer

SHAPE = {"image_size": 28, "vision_width": 16, "vision_depth": 2, "vision_heads": 2, "hidden_size": 32, "layers": 2}


def toy_overrides(output: Path, data: Path | None = None, **options: object) -> list[str]:
    """Overrides of a run on the toy dataset `data`; `options` by their names without groups."""
    values: dict[str, object] = {
        "output": output, "steps": 8, "batch_size": 8, "learning_rate": 3e-3, "validate_every": 50, "save_every": 50,
        "precision": "fp32", "threads": 1, "device": "cpu",
    }  # fmt: skip
    if data is not None:
        values |= {"data": f"[{data}]", "dataset_name": "toy"}
    if "checkpoint" not in options:
        values |= {"model.shape": SHAPE}
    values |= options
    return [f"{MOVED.get(name, name)}={value}" for name, value in values.items()]


def toy_config(output: Path, data: Path | None = None, **options: object) -> TrainConfig:
    """The configuration of such a run."""
    return load_config(None, toy_overrides(output, data, **options))


def train_toy(output: Path, data: Path | None = None, **options: object) -> Trainer:
    """Train to the end."""
    trainer = Trainer(toy_config(output, data, **options))
    trainer.run()
    return trainer
