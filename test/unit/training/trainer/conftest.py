"""Datasets and checkpoints that the trainer's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_dataset import write_toy_dataset
from toy_training import train_toy


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy dataset."""
    return write_toy_dataset(tmp_path_factory.mktemp("rlds"))


@pytest.fixture(scope="session")
def base(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has begun to learn the toy dataset."""
    output = tmp_path_factory.mktemp("base")
    train_toy(output, data, steps=30, final_learning_rate=1e-3)  # as the golden curves have it
    return output / "checkpoint"
