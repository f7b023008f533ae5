"""A small RLDS dataset that a tiny model learns in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openvla_training.rlds.features import EncodedEpisode
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.writer import open_writer


def write_toy_dataset(folder: Path, name: str = "toy", episodes: int = 24, reach: float = 0.05) -> Path:
    """The brightness of the picture says how far to move (up to `reach` [m]), and the verb which way."""
    rng = np.random.default_rng(0)
    with open_writer(folder, name, settings={"image_encoding": "png"}, val_fraction=0.2) as writer:
        for number in range(episodes):
            sign = 1 if number % 2 else -1
            level = rng.uniform(0, 1, 8)
            images = [np.full((28, 28, 3), int(255 * value), np.uint8) for value in level]
            actions = np.zeros((8, 7), np.float32)
            actions[:, 0] = sign * level * reach
            actions[:, 6] = level > 0.5
            episode = EncodedEpisode(
                episode_id=f"{name}-{number}",
                images=[encode_image(image, "png") for image in images],
                states=np.zeros((8, 8), np.float32),
                actions=actions,
                instructions=["push the box" if sign > 0 else "pull the box"] * 8,
                outcome="success",
                score=1.0,
                file_path=f"{name}-{number}",
            )
            writer.add(episode, (28, 28, 3))
    return folder
