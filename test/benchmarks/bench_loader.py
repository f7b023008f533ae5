"""`make bench`, or `python test/benchmarks/bench_loader.py [--minutes 30]`: what the data loader costs.

Images per second and core (CPU time of the whole process) of reading, shuffling, decoding, resizing, augmenting and
tokenising, beside a plain tf.data pipeline that does the same (where TensorFlow is installed) and beside what one H200
asks for; and the loader's memory over a run, which must not grow.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "test" / "fixtures" / "parity" / "fused_tiny" / "checkpoint"
DATASETS = {"bridge_orig": 1.0, "viola": 1.0, "droid": 0.5}
BATCH = 32
# One H200: bf16 dense peak, at the share of it that training of this size reaches; tokens of a sample.
PEAK, SHARE, PARAMETERS, TOKENS = 989e12, 0.45, 7.5e9, 290
FACTORS = {"full fine-tuning": 8, "LoRA": 6}  # FLOPs per parameter and token, with activation checkpointing


def make_data(root: Path, episodes: int) -> None:
    """Datasets in their published schemas and picture sizes."""
    from openvla_training.openx.synthetic import write_synthetic

    for name in DATASETS:
        write_synthetic(root, name, episodes=episodes, steps=(25, 45), scale=1.0, shards=8)


def rss() -> float:
    """Resident memory [MiB]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_loader(root: Path, seconds: float, buffer: int, every: float | None = None) -> dict:
    """Draw batches for a while; `every`: also note the memory each so many seconds."""
    import torch

    from openvla_policy.checkpoint.folder import load_folder
    from openvla_training.openx.mixture import Mixture
    from openvla_training.trainer.augment import AugmentConfig
    from openvla_training.trainer.loader import Loader, LoaderConfig

    torch.set_num_threads(1)
    config = LoaderConfig(batch_size=BATCH, buffer_bytes=buffer)
    mixture = Mixture("bench", DATASETS)
    memory: list[tuple[float, float]] = []
    with Loader(mixture, root, load_folder(CHECKPOINT), config, augment=AugmentConfig(), workers=2) as loader:
        for _ in range(8):
            next(loader)
        count, begin, cpu = 0, time.perf_counter(), time.process_time()
        while (now := time.perf_counter() - begin) < seconds:
            next(loader)
            count += BATCH
            if every and now >= len(memory) * every:
                memory.append((now, rss()))
        return {"images": count, "wall": now, "cpu": time.process_time() - cpu, "memory": memory}


def run_tensorflow(root: Path, seconds: float) -> dict:
    """The same work in tf.data: interleave shards, flatten episodes, shuffle, decode, resize, augment, batch."""
    import tensorflow as tf

    def steps(record, camera, action):
        parsed = tf.io.parse_single_example(
            record,
            {
                f"steps/observation/{camera}": tf.io.RaggedFeature(tf.string),
                f"steps/{action}": tf.io.RaggedFeature(tf.float32),
            },
        )
        images = parsed[f"steps/observation/{camera}"]
        return tf.data.Dataset.from_tensor_slices(images)

    def picture(data):
        image = tf.io.decode_image(data, channels=3, expand_animations=False)
        image = tf.image.resize(image, (224, 224), method="lanczos3", antialias=True)
        image = tf.clip_by_value(image, 0, 255) / 255
        seed = tf.random.uniform([2], maxval=2**31 - 1, dtype=tf.int32)
        offset = tf.random.uniform([2], 0, 1 - 0.9**0.5)
        box = tf.concat([offset, offset + 0.9**0.5], 0)
        image = tf.image.crop_and_resize(image[None], box[None], [0], (224, 224))[0]
        image = tf.clip_by_value(tf.image.stateless_random_brightness(image, 0.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_contrast(image, 0.8, 1.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_saturation(image, 0.8, 1.2, seed), 0, 1)
        image = tf.clip_by_value(tf.image.stateless_random_hue(image, 0.05, seed), 0, 1)
        return tf.cast(image * 255, tf.uint8)

    parts = []
    for name, camera, action in (
        ("bridge_orig", "image_0", "action"),
        ("viola", "agentview_rgb", "action/world_vector"),
        ("droid", "exterior_image_1_left", "action"),
    ):
        files = sorted(str(path) for path in (root / name).glob("*/*tfrecord*"))
        records = tf.data.TFRecordDataset(files).shuffle(100).repeat()
        parts.append(records.flat_map(lambda r, c=camera, a=action: steps(r, c, a)))
    mixed = tf.data.Dataset.sample_from_datasets(parts, [0.4, 0.4, 0.2]).shuffle(1000)
    batches = mixed.map(picture, num_parallel_calls=2).batch(BATCH).prefetch(2).as_numpy_iterator()
    for _ in range(8):
        next(batches)
    count, begin, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += BATCH
    return {"images": count, "wall": time.perf_counter() - begin, "cpu": time.process_time() - cpu, "memory": []}


def report(name: str, measured: dict) -> float:
    """Print a row; returns images per CPU-second."""
    rate = measured["images"] / measured["cpu"]
    print(f"{name:28} {measured['images'] / measured['wall']:8.0f} images/s {rate:8.0f} images/s/core")
    return rate


def bench(root: Path, seconds: float, minutes: float, tensorflow: str | None) -> float:
    """Print all rows; returns how much memory the second half of the soak added [MiB]."""
    loader = run_loader(root, seconds, 64 << 20)
    rate = report("openvla_training loader", loader)
    if tensorflow is None:
        print(f"{'tf.data':28} skipped: TensorFlow is not installed here (--tensorflow-python names another Python)")
    else:
        command = [tensorflow, __file__, "--only-tensorflow", str(root), "--seconds", str(seconds)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        report("tf.data, the same work", json.loads(printed.splitlines()[-1]))
    for kind, factor in FACTORS.items():
        need = PEAK * SHARE / (factor * PARAMETERS * TOKENS)
        print(f"{'one H200, ' + kind:28} {need:8.0f} images/s {need / rate:8.2f} cores of this machine")
    soak = run_loader(root, minutes * 60, 32 << 20, every=max(1.0, minutes * 60 / 60))["memory"]
    half = [memory for at, memory in soak if at >= minutes * 30]
    third = max(1, len(half) // 3)
    growth = float(np.mean(half[-third:]) - np.mean(half[:third]))
    marks = "  ".join(f"{at:.0f} s {memory:.0f}" for at, memory in soak[:: max(1, len(soak) // 8)])
    print(f"memory over {minutes:g} min [MiB]: {marks}")
    print(f"growth over the second half: {growth:+.1f} MiB")
    return growth


@pytest.mark.timeout(600)
def test_loader(tmp_path: Path) -> None:
    """A short one for `make bench`."""
    quick = bool(os.environ.get("QUICK"))
    make_data(tmp_path, 12 if quick else 40)
    python = sys.executable if importlib.util.find_spec("tensorflow") else None
    bench(tmp_path, 2 if quick else 8, 0.1 if quick else 1, python)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement (default: 15)")
    parser.add_argument("--minutes", type=float, default=5, help="of the soak (default: 5)")
    parser.add_argument("--episodes", type=int, default=120, help="of each dataset (default: 120)")
    parser.add_argument("--tensorflow-python", metavar="PYTHON", help="an interpreter that has TensorFlow")
    parser.add_argument("--only-tensorflow", metavar="DIR", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only_tensorflow:
        print(json.dumps(run_tensorflow(options.only_tensorflow, options.seconds)))
        return
    python = options.tensorflow_python or (sys.executable if importlib.util.find_spec("tensorflow") else None)
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), options.episodes)
        bench(Path(folder), options.seconds, options.minutes, python)


if __name__ == "__main__":
    main()
