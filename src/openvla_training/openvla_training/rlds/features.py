"""An episode in memory and as TFDS features.

The layout is that of the Open X-Embodiment datasets (RLDS): an episode is a nested dataset of steps; a step holds the
observation, the action taken from it and the instruction.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from numpy.typing import NDArray

from openvla_training.rlds.images import Image

# TFDS logs each dataset that it opens and each field that it takes from code, across progress bars.
absl_logging.set_verbosity(absl_logging.WARNING)

ACTION_DIM = 7
STATE_DIM = 8
MAIN_CAMERA = "image"  # the observation key of the third-person camera
STATE = "state"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class EncodedEpisode:
    """One episode of T steps with encoded images, ready to be written.

    Attributes:
        episode_id: Unique name of the episode.
        images: T encoded frames of the main camera.
        states: End effector x y z [m], quaternion x y z w, gripper opening [0..1]; float32 (T, 8).
        actions: dx dy dz [m], droll dpitch dyaw [rad, fixed axes], gripper [0..1]; float32 (T, 7).
        instructions: T sentences.
        outcome: success, failure, unfinished or unknown.
        score: Score of the task [0..1].
        file_path: The recording.
        extra_images: T encoded frames of each further camera, by observation key.
        stamps: Times at which the frames were taken [ns], int64 (T,); None where they are unknown.
    """

    episode_id: str
    images: Sequence[bytes]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instructions: Sequence[str]
    outcome: str = "unknown"
    score: float = 0.0
    file_path: str = ""
    extra_images: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None

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
        lengths = {key: len(frames) for key, frames in self.extra_images.items()}
        if set(lengths.values()) - {steps} or (self.stamps is not None and self.stamps.shape != (steps,)):
            raise ValueError(
                f"episode {self.episode_id!r}: {steps} steps do not match further images {lengths} or the stamps"
            )

    @property
    def content_hash(self) -> str:
        """Hash of the content (not of name, outcome or file) as 32 hex digits."""
        digest = hashlib.sha256()
        for array in (self.states, self.actions):
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        for frames in (self.images, *(self.extra_images[key] for key in sorted(self.extra_images))):
            for frame in frames:
                digest.update(frame)
        digest.update("\n".join(self.instructions).encode())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Episode:
    """One episode as read; fields as in :class:`EncodedEpisode`, images uint8 RGB (H, W, 3) each."""

    episode_id: str
    images: Sequence[Image]
    states: NDArray[np.float32]
    actions: NDArray[np.float32]
    instruction: str
    outcome: str
    score: float
    file_path: str
    extra_images: Mapping[str, Sequence[Image]] = field(default_factory=dict)
    stamps: NDArray[np.int64] | None = None


def episode_features(image_shapes: Mapping[str, Shape] | Shape, image_encoding: str) -> tfds.features.FeaturesDict:
    """Build the TFDS features of a dataset.

    Args:
        image_shapes: (height, width, 3) by observation key; a bare shape is that of the main camera alone.
        image_encoding: png or jpeg.

    Returns:
        The features.
    """
    features = tfds.features
    cameras = image_shapes if isinstance(image_shapes, Mapping) else {MAIN_CAMERA: image_shapes}
    step = {
        "observation": {
            **{
                key: features.Image(shape=tuple(shape), dtype=np.uint8, encoding_format=image_encoding)
                for key, shape in cameras.items()
            },
            STATE: features.Tensor(shape=(STATE_DIM,), dtype=np.float32),
        },
        "action": features.Tensor(shape=(ACTION_DIM,), dtype=np.float32),
        "language_instruction": features.Text(),
        "timestamp": features.Scalar(dtype=np.int64),
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
    """Arrange an episode as its features need it; the reward is 1 on the last step of a success, else 0."""
    last = len(episode.images) - 1
    stamps = np.zeros(last + 1, np.int64) if episode.stamps is None else episode.stamps
    cameras = {MAIN_CAMERA: episode.images, **episode.extra_images}
    steps = [
        {
            "observation": {**{key: frames[i] for key, frames in cameras.items()}, STATE: episode.states[i]},
            "action": episode.actions[i],
            "language_instruction": episode.instructions[i],
            "timestamp": np.int64(stamps[i]),
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
