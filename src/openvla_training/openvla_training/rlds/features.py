"""What an episode is, in memory and as TFDS features.

The layout is the one of the Open X-Embodiment datasets (RLDS): an episode is a nested dataset of steps, a step holds
the observation, the action taken from it and the sentence that was followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from numpy.typing import NDArray

from openvla_training.rlds.images import Image

ACTION_DIM = 7
STATE_DIM = 8


@dataclass(frozen=True)
class EncodedEpisode:
    """One episode ready to be written; T steps.

    ``images``: T encoded frames. ``states``: float32 (T, 8), end effector x y z [m], quaternion x y z w, gripper
    opening [0..1]. ``actions``: float32 (T, 7), dx dy dz [m], droll dpitch dyaw [rad, fixed axes], gripper [0..1].
    ``instructions``: T sentences.
    """

    episode_id: str
    images: Sequence[bytes]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: Sequence[str]
    outcome: str = "unknown"
    score: float = 0.0
    file_path: str = ""

    def __post_init__(self) -> None:
        steps = len(self.images)
        shapes = (self.states.shape, self.actions.shape, len(self.instructions))
        if steps == 0 or shapes != ((steps, STATE_DIM), (steps, ACTION_DIM), steps):
            raise ValueError(
                f"episode {self.episode_id!r}: {steps} images go with states, actions, instructions of {shapes}; "
                f"expected at least one image and ({steps}, {STATE_DIM}), ({steps}, {ACTION_DIM}), {steps}"
            )
        if not (np.isfinite(self.states).all() and np.isfinite(self.actions).all()):
            raise ValueError(f"episode {self.episode_id!r} has a state or action that is not a finite number")


@dataclass(frozen=True)
class Episode:
    """One episode as read back; fields as in :class:`EncodedEpisode`, ``images`` uint8 RGB (H, W, 3) each."""

    episode_id: str
    images: Sequence[Image]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instruction: str
    outcome: str
    score: float
    file_path: str


def episode_features(image_shape: tuple[int, int, int], image_encoding: str) -> tfds.features.FeaturesDict:
    """Return the TFDS features of a dataset whose images are all of ``image_shape`` (height, width, 3)."""
    features = tfds.features
    step = {
        "observation": {
            "image": features.Image(shape=image_shape, dtype=np.uint8, encoding_format=image_encoding),
            "state": features.Tensor(shape=(STATE_DIM,), dtype=np.float32),
        },
        "action": features.Tensor(shape=(ACTION_DIM,), dtype=np.float32),
        "language_instruction": features.Text(),
        "reward": features.Scalar(dtype=np.float32),
        "discount": features.Scalar(dtype=np.float32),
        "is_first": features.Scalar(dtype=np.bool_),
        "is_last": features.Scalar(dtype=np.bool_),
        "is_terminal": features.Scalar(dtype=np.bool_),
    }
    metadata = {
        "episode_id": features.Text(),
        "file_path": features.Text(),
        "outcome": features.Text(),
        "score": features.Scalar(dtype=np.float32),
    }
    return features.FeaturesDict({"steps": features.Dataset(step), "episode_metadata": metadata})


def to_example(episode: EncodedEpisode) -> dict[str, Any]:
    """Lay an episode out as its features want it. Reward: 1 on the last step of a success, else 0."""
    last = len(episode.images) - 1
    steps = [
        {
            "observation": {"image": episode.images[i], "state": episode.states[i]},
            "action": episode.actions[i],
            "language_instruction": episode.instructions[i],
            "reward": np.float32(i == last and episode.outcome == "success"),
            "discount": np.float32(1.0),
            "is_first": i == 0,
            "is_last": i == last,
            "is_terminal": i == last,
        }
        for i in range(last + 1)
    ]
    metadata = {
        "episode_id": episode.episode_id,
        "file_path": episode.file_path,
        "outcome": episode.outcome,
        "score": np.float32(episode.score),
    }
    return {"steps": steps, "episode_metadata": metadata}
