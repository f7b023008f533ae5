"""Layout of a LeRobot dataset: paths, features and statistics of the formats v2.1 and v3.0.

v2.1 has one parquet file an episode, and one video a camera and episode; v3.0 has many episodes in a file, with their
places in meta/episodes. Source: the dataset package of huggingface/lerobot (datasets/utils.py, dataset_metadata.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Version = Literal["v2.1", "v3.0"]
VERSIONS: tuple[Version, ...] = get_args(Version)
INFO, STATS = "meta/info.json", "meta/stats.json"
EPISODES_LINES, TASKS_LINES, STATS_LINES = "meta/episodes.jsonl", "meta/tasks.jsonl", "meta/episodes_stats.jsonl"
TASKS_TABLE = "meta/tasks.parquet"
EPISODES_TABLE = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
DATA = {
    "v2.1": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "v3.0": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
}
VIDEO = {
    "v2.1": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    "v3.0": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
CHUNK = 1000  # files in a folder
STATE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "gripper"]
ACTION_NAMES = ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
IMAGES = "observation.images."
MAIN = f"{IMAGES}image"
QUANTILES = (0.01, 0.10, 0.50, 0.90, 0.99)


def camera_name(key: str) -> str:
    """Name the feature of an observation key: image -> observation.images.image."""
    return f"{IMAGES}{key}"


def features(shapes: Mapping[str, tuple[int, int, int]], fps: int, video: Mapping[str, Any] | None) -> dict[str, Any]:
    """Build the `features` of info.json.

    Args:
        shapes: Image shapes (H, W, 3) by observation key.
        fps: Control rate [Hz].
        video: Codec and pixel format of the videos; None where images are columns of the tables.

    Returns:
        The features by name.
    """

    def vector(dtype: str, names: list[str] | None, size: int) -> dict[str, Any]:
        return {"dtype": dtype, "shape": [size], "names": names}

    found: dict[str, Any] = {
        "observation.state": vector("float32", STATE_NAMES, 8),
        "action": vector("float32", ACTION_NAMES, 7),
    }
    for key, shape in shapes.items():
        image: dict[str, Any] = {"dtype": "image" if video is None else "video", "shape": list(shape)}
        image |= {"names": ["height", "width", "channels"]}
        if video is not None:
            size: dict[str, Any] = {"video.height": shape[0], "video.width": shape[1]}
            size |= {"video.channels": 3, "video.fps": fps}
            image["info"] = size | dict(video) | {"video.is_depth_map": False, "has_audio": False}
        found[camera_name(key)] = image
    found["stamp_ns"] = vector("int64", None, 1)
    found |= {name: vector("int64", None, 1) for name in ("frame_index", "episode_index", "index", "task_index")}
    found["timestamp"] = vector("float32", None, 1)
    return found


def vector_statistics(values: NDArray[Any]) -> dict[str, Any]:
    """Compute statistics of a column (T, D) in LeRobot's form: lists of D numbers, and the count."""
    values = np.asarray(values, np.float64).reshape(len(values), -1)
    found: dict[str, Any] = {
        name: function(axis=0).tolist()
        for name, function in (("min", values.min), ("max", values.max), ("mean", values.mean), ("std", values.std))
    }
    found["count"] = [len(values)]
    return found | {f"q{round(100 * q):02d}": np.quantile(values, q, axis=0).tolist() for q in QUANTILES}


def image_statistics(frames: NDArray[np.uint8]) -> dict[str, Any]:
    """Compute statistics of frames (N, H, W, 3): numbers of 0..1 as (3, 1, 1) lists, and the count."""
    pixels = frames.reshape(-1, 3) / 255.0
    found = {
        "min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0),
        **{f"q{round(100 * q):02d}": np.quantile(pixels, q, axis=0) for q in QUANTILES},
    }  # fmt: skip
    return {name: value.reshape(3, 1, 1).tolist() for name, value in found.items()} | {"count": [len(frames)]}
