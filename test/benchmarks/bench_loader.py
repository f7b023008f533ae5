"""`make bench`, or `python test/benchmarks/bench_loader.py [--minutes 30]`: throughput and memory of the data loader.

Measures images per second and core (CPU time of the process) of reading, shuffling, decoding, resizing, augmenting and
tokenising, beside a plain tf.data pipeline of the same work (where TensorFlow is installed) and the demand of one H200.
The soak measures the loader's memory over a long run, which must not grow, on the paper's mixture of 27 datasets, which
drops DROID late in training. Writes outputs/bench/loader.json and the memory as outputs/bench/loader.png.
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
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from openvla_training.openx.mixture import Mixture

ROOT = Path(__file__).parents[2]
CHECKPOINT = ROOT / "test" / "fixtures" / "parity" / "fused_tiny" / "checkpoint"
OUTPUT = ROOT / "outputs" / "bench"
DATASETS = {"bridge_orig": 1.0, "viola": 1.0, "droid": 0.5}
BATCH = 32
SOAK = {"mixture": "openvla", "scale": 0.5, "buffer": 64 << 20}  # images of half the published height and width
# One H200: dense peak in bf16 [FLOP/s], the share of it that training of this size reaches; tokens per sample.
PEAK, SHARE, PARAMETERS, TOKENS = 989e12, 0.45, 7.5e9, 290
FACTORS = {"full fine-tuning": 8, "LoRA": 6}  # FLOPs per parameter and token, with activation checkpointing


def make_data(root: Path, episodes: int) -> None:
    """Write datasets with their published schemas and image sizes."""
    from openvla_training.openx.synthetic import write_synthetic

    for name in DATASETS:
        write_synthetic(root, name, episodes=episodes, steps=(25, 45), scale=1.0, shards=8)


def rss() -> float:
    """Return the resident memory [MiB]."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_loader(mixture: Mixture, root: Path, seconds: float, *, buffer: int, steps: int = 1, samples: int = 0) -> dict:
    """Draw batches.

    Args:
        mixture: Datasets and weights.
        root: Folder of the datasets.
        seconds: Duration.
        buffer: Size of the shuffle buffer [bytes].
        steps: Length of the training that the loader serves [batches].
        samples: Number of memory measurements.

    Returns:
        Images, wall and CPU time [s], memory over time [s, MiB], and images by dataset.
    """
    import torch

    from openvla_policy.checkpoint.folder import load_folder
    from openvla_training.trainer.config import AugmentConfig
    from openvla_training.trainer.data.loader import Loader, LoaderConfig

    torch.set_num_threads(1)
    config = LoaderConfig(batch_size=BATCH, buffer_bytes=buffer, steps=steps)
    memory: list[tuple[float, float]] = []
    drawn: Counter[str] = Counter()
    with Loader(mixture, root, load_folder(CHECKPOINT), config, augment=AugmentConfig(), workers=2) as loader:
        for _ in range(8):
            next(loader)
        count, begin, cpu = 0, time.perf_counter(), time.process_time()
        while (now := time.perf_counter() - begin) < seconds:
            drawn.update(name for name, _episode, _step in next(loader).origins)
            count += BATCH
            if samples and now >= len(memory) * seconds / samples:
                memory.append((now, rss()))
        return {
            "images": count,
            "wall": now,
            "cpu": time.process_time() - cpu,
            "memory": memory,
            "datasets": dict(drawn),
        }


def report(name: str, measured: dict) -> float:
    """Print a row; return images per CPU-second."""
    rate = measured["images"] / measured["cpu"]
    print(f"{name:28} {measured['images'] / measured['wall']:8.0f} images/s {rate:8.0f} images/s/core", flush=True)
    return rate


def bench_rate(root: Path, episodes: int, seconds: float, tensorflow: str | None) -> dict:
    """Print images per second and core of our loader and of tf.data, and the demand of one H200."""
    from openvla_training.openx.mixture import Mixture

    make_data(root, episodes)
    result = {"loader": run_loader(Mixture("bench", DATASETS), root, seconds, buffer=64 << 20)}
    rate = report("openvla_training loader", result["loader"])
    if tensorflow is None:
        print(f"{'tf.data':28} skipped: TensorFlow is not installed here (--tensorflow-python names another Python)")
    else:
        command = [tensorflow, str(Path(__file__).with_name("tf_pipeline.py")), str(root), str(seconds), str(BATCH)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        result["tf.data"] = json.loads(printed.splitlines()[-1])
        report("tf.data, the same work", result["tf.data"])
    for kind, factor in FACTORS.items():
        need = PEAK * SHARE / (factor * PARAMETERS * TOKENS)
        result[f"H200 {kind}"] = {"images_per_second": need, "cores": need / rate}
        print(f"{'one H200, ' + kind:28} {need:8.0f} images/s {need / rate:8.2f} cores of this machine")
    return result


def bench_soak(root: Path, episodes: int, minutes: float) -> dict:
    """Draw the paper's mixture for `minutes`; print and return the memory over time."""
    from openvla_training.openx.mixture import load_mixture
    from openvla_training.openx.synthetic import write_synthetic

    mixture = load_mixture(SOAK["mixture"])
    for name in mixture.datasets:
        write_synthetic(root, name, episodes=episodes, steps=(25, 45), scale=SOAK["scale"], shards=4)
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file()) / 2**20
    probe = run_loader(mixture, root, 5, buffer=SOAK["buffer"])
    steps = max(1, round(probe["images"] / probe["wall"] * minutes * 60 / BATCH))  # about as many as the soak draws
    soak = run_loader(mixture, root, minutes * 60, buffer=SOAK["buffer"], steps=steps, samples=120)
    at, memory = np.array([line for line in soak["memory"] if line[0] >= minutes * 30]).T
    slope = float(np.polyfit(at / 3600, memory, 1)[0])
    marks = "  ".join(f"{at:.0f} s {memory:.0f}" for at, memory in soak["memory"][:: max(1, len(soak["memory"]) // 8)])
    print(f"soak: {soak['images']:,} images of {len(soak['datasets'])} datasets ({size:.0f} MiB on disk)")
    print(f"memory over {minutes:g} min [MiB]: {marks}")
    print(f"second half: {memory.min():.0f} to {memory.max():.0f} MiB, slope {slope:+.1f} MiB/h", flush=True)
    return soak | {"minutes": minutes, "steps": steps, "disk_mib": size, "slope_mib_per_hour": slope, **SOAK}


def draw(soak: dict, path: Path) -> None:
    """Draw the memory over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 2.4), layout="constrained")
    at, memory = np.array(soak["memory"]).T
    axes.plot(at / 60, memory, color="#3a7ca5", linewidth=1.2)
    axes.set(xlabel="minutes", ylabel="resident memory [MiB]", ylim=(0, 1.25 * memory.max()))
    axes.set_title(f"loader, {soak['images']:,} images of {len(soak['datasets'])} datasets", fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


@pytest.mark.timeout(1800)
def test_loader(tmp_path: Path) -> None:
    """Measure briefly, for `make bench`."""
    quick = bool(os.environ.get("QUICK"))
    python = sys.executable if importlib.util.find_spec("tensorflow") else None
    bench_rate(tmp_path / "rate", 12 if quick else 40, 2 if quick else 8, python)
    bench_soak(tmp_path / "soak", 2 if quick else 8, 0.1 if quick else 1)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement [s]; 0: none (default: 15)")
    parser.add_argument("--minutes", type=float, default=5, help="of the soak [min]; 0: none (default: 5)")
    parser.add_argument("--episodes", type=int, default=120, help="per measured dataset (default: 120)")
    parser.add_argument("--soak-episodes", type=int, default=24, help="per dataset of the soak (default: 24)")
    parser.add_argument("--tensorflow-python", metavar="PYTHON", help="interpreter with TensorFlow")
    options = parser.parse_args()
    python = options.tensorflow_python or (sys.executable if importlib.util.find_spec("tensorflow") else None)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path, result = OUTPUT / "loader.json", {}
    with tempfile.TemporaryDirectory() as folder:
        if options.seconds:
            result["rate"] = bench_rate(Path(folder, "rate"), options.episodes, options.seconds, python)
        if options.minutes:
            result["soak"] = bench_soak(Path(folder, "soak"), options.soak_episodes, options.minutes)
            draw(result["soak"], path.with_suffix(".png"))
    before = json.loads(path.read_text("utf-8")) if path.exists() else {}
    path.write_text(json.dumps(before | result, indent=1) + "\n", "utf-8")
    print(f"written: {path}" + (f" and {path.with_suffix('.png')}" if options.minutes else ""))


if __name__ == "__main__":
    main()
