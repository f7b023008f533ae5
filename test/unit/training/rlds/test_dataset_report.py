"""The report of a dataset: figures, warnings, and a self-contained page."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from pathlib import Path

import cv2
import numpy as np
import pytest

from openvla_training.rlds.features import EncodedEpisode
from openvla_training.rlds.images import encode_image
from openvla_training.rlds.inspect.cli import main
from openvla_training.rlds.inspect.quality import inspect
from openvla_training.rlds.writer import open_writer

SHAPE = (24, 32, 3)


def dataset(folder: Path, episodes: list[dict[str, object]], source: dict[str, object] | None = None) -> Path:
    with open_writer(folder, "demo", settings={"image_encoding": "png", "rate": 5}, val_fraction=0.0) as writer:
        made = []
        for number, changes in enumerate(episodes):
            rng = np.random.default_rng(number)
            actions = rng.normal(scale=0.01, size=(8, 7)).astype(np.float32)
            actions[:, 6] = [1, 1, 1, 1, 0, 0, 0, 0]
            fields = {
                "episode_id": f"episode_{number}", "actions": actions, "instructions": [f"do {number % 2}"] * 8,
                "images": [encode_image(rng.integers(0, 256, SHAPE, dtype=np.uint8), "png") for _ in range(8)],
                "states": rng.normal(size=(8, 8)).astype(np.float32), "outcome": "success",
            }  # fmt: skip
            made.append(EncodedEpisode(**(fields | changes)))  # type: ignore[arg-type]
        writer.add_source("bag", source or {}, made, {"image": SHAPE})
        return writer.folder


def changed(column: int | slice, value: object, rows: slice = slice(None)) -> np.ndarray:
    actions = np.random.default_rng(9).normal(scale=0.01, size=(8, 7)).astype(np.float32)
    actions[:, 6] = [1, 1, 1, 1, 0, 0, 0, 0]
    actions[rows, column] = value
    return actions


def test_a_sound_dataset_has_no_warning(tmp_path: Path) -> None:
    assert inspect(dataset(tmp_path, [{} for _ in range(6)])).warnings == []


@pytest.mark.parametrize(
    ("episodes", "said"),
    [
        ([{}, {"actions": changed(slice(0, 6), 0.0, slice(0, 6))}], "1 of 2 episodes are mostly idle.*episode_1"),
        ([{}, {"actions": changed(0, 0.05, slice(0, 6))}], r"saturated.*dx \[m\] in 31%"),
        ([{"actions": changed(6, 1.0)}, {}], "never closes in 1 of 2 episodes: episode_0"),
        ([{"actions": changed(6, 0.9)}] * 1 + [{"actions": changed(6, 1.0)}], "never closes in any"),
        ([{}], "only one instruction .'do 0'."),
        ([{}, {"actions": changed(2, 0.4, slice(3, 4))}], "moves by up to 0.40 m"),
        ([{}, {"actions": changed(6, -1.0, slice(4, 8))}], "runs from -1.00 to 1.00"),
        ([{"actions": changed(3, 0.0)}], r"droll \[rad\] never change"),
        ([{"images": [encode_image(np.full(SHAPE, 9, np.uint8), "png")] * 8}, {}], "show nothing"),
    ],
)
def test_problem_gives_a_warning(tmp_path: Path, episodes: list[dict[str, object]], said: str) -> None:
    warnings = "\n".join(inspect(dataset(tmp_path, episodes)).warnings)
    assert re.search(said, warnings), warnings


def test_standing_still_is_not_saturation(tmp_path: Path) -> None:
    down = np.minimum(changed(2, 0.0, slice(0, 5)), 0.0)
    assert (down[:5, 2] == 0.0).all() and not inspect(dataset(tmp_path, [{"actions": down}])).saturated.any()


def test_figures_include_results_of_the_conversion(tmp_path: Path) -> None:
    quality = {
        "left_out": {"no motion": 24, "not executed": 1}, "skew_s": {"ee_pose": {"mean": 0.004, "max": 0.02}},
        "image_gaps": 2, "messages_lost": {"/camera/image_raw": 5},
    }  # fmt: skip
    source = {"quality": {"episode_0": quality}, "dropped": {"x": "failure"}, "bad": {"y": "NaN"}}
    found = inspect(dataset(tmp_path, [{}, {}], source))
    figures = found.to_json()
    assert figures["skew_s"] == quality["skew_s"] and figures["steps_left_out"] == quality["left_out"]
    assert figures["episodes"][0]["idle_fraction"] == pytest.approx(24 / 32)
    assert figures["episodes_dropped"] == {"x": "failure"} and figures["bad"] == {"y": "NaN"}
    text = "\n".join(found.warnings)
    for part in ("lost 5 messages", "2 gaps", "1 bag or episode could not be used", "mostly idle"):
        assert part in text


def test_page_is_self_contained_and_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "<script>alert(1)</script>"
    folder = dataset(tmp_path, [{"instructions": [hostile] * 8}, {}])
    assert main([str(folder), "--output", str(tmp_path / "report")]) == 0
    assert "2 episodes, 16 steps, 2 instructions" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text()
    assert hostile not in page and "&lt;script&gt;" in page
    pictures = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 3 + 2 and "http" not in page
    for data in pictures:
        assert np.ptp(cv2.imdecode(np.frombuffer(b64decode(data), np.uint8), cv2.IMREAD_COLOR)) > 100
    assert main([str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == 16
    assert main([str(tmp_path / "absent")]) == 1
