"""`make bench`: speed of the conversion of bags to RLDS on one core, as a multiple of real time, by stage."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_factory import START, BagMaker, Demo, fill, random_demo
from rich.console import Console
from rich.table import Table

from openvla_training.bags.actions import StepOptions
from openvla_training.bags.convert_all import convert
from openvla_training.bags.convert_bag import Options

RESULTS = Path(__file__).parents[2] / "outputs" / "bench" / "convert.json"
TARGET = 10.0  # times real time, on one core
CAMERA_RATE, RATE = 30, 5  # [Hz]
SECONDS, REPEATS = (5, 1) if os.environ.get("QUICK") else (20, 3)
SETTINGS = {
    "224 px, PNG (default)": Options(image_size=224, image_encoding="png", steps=StepOptions("achieved", RATE)),
    "224 px, JPEG": Options(image_size=224, image_encoding="jpeg", steps=StepOptions("achieved", RATE)),
    "camera size, JPEG": Options(image_size=None, image_encoding="jpeg", steps=StepOptions("achieved", RATE)),
}


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two recordings: raw 640 x 480 images at 30 Hz, states at 50 Hz, zstd as the recorder writes."""
    folder = tmp_path_factory.mktemp("bench")
    made = []
    for index in range(2):
        rng = np.random.default_rng(index)
        # Structure and noise: it compresses about as well as a real image.
        scene = cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        maker = BagMaker(folder / f"bag_{index}")
        start = START + index * 10**12
        demo: Demo = random_demo(rng, SECONDS * 5 + 1, 2, start=start, skip_topics=("camera/image_raw", "safety/state"))
        fill(maker, demo)
        for number in range(SECONDS * CAMERA_RATE + 1):
            noise = rng.integers(-3, 4, scene.shape, dtype=np.int16)
            picture = np.clip(np.roll(scene, number, axis=1) + noise, 0, 255).astype(np.uint8)
            maker.image(start + number * 10**9 // CAMERA_RATE, picture)
        maker.writer.close()
        made.append(folder / f"bag_{index}")
    return made


def test_conversion(bags: list[Path], tmp_path: Path) -> None:
    cv2.setNumThreads(1)
    table = Table(title=f"openvla-convert, 640 x 480 raw at {CAMERA_RATE} Hz to {RATE} Hz steps, one process")
    for column in ("images", "x real time", "read", "decode", "resize", "encode", "write", "[ms per step]"):
        table.add_column(column, justify="left" if column == "images" else "right")
    results: dict[str, dict[str, float]] = {}
    for name, options in SETTINGS.items():
        best: dict[str, float] = {}
        for _ in range(REPEATS):
            shutil.rmtree(tmp_path / "rlds", ignore_errors=True)
            wall, cpu = time.perf_counter(), time.process_time()
            summary = convert(bags, tmp_path / "rlds", "bench", options)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            assert summary.episodes == len(bags) and summary.steps >= SECONDS * RATE * len(bags) - 4
            ms = {part: 1e3 * seconds / summary.steps for part, seconds in summary.work.items()}
            ms["write"] = 1e3 * wall / summary.steps - sum(ms.values())
            figures = {
                "times_real_time": summary.recorded_seconds / wall,
                "times_real_time_per_cpu_second": summary.recorded_seconds / cpu,
                **{f"{part}_ms_a_step": value for part, value in ms.items()},
                "megabytes": sum(f.stat().st_size for f in summary.folder.iterdir()) / 1e6,
            }
            best = max(best, figures, key=lambda one: one.get("times_real_time", 0.0))
        results[name] = best
        parts = [f"{best[f'{part}_ms_a_step']:.2f}" for part in ("read", "decode", "resize", "encode", "write")]
        total = sum(value for key, value in best.items() if key.endswith("_ms_a_step"))
        table.add_row(name, f"{best['times_real_time']:.0f}", *parts, f"{total:.2f}")
    Console().print(table, f"target: {TARGET:g} x real time on one core")
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    RESULTS.write_text(json.dumps({"target": TARGET, "machine": machine, "results": results}, indent=1) + "\n")
