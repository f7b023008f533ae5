"""Video files are written and read frame by frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openvla_evaluation.report.video import VideoWriter, read_video


def test_video_keeps_number_and_content_of_frames(tmp_path: Path) -> None:
    frames = [np.full((32, 48, 3), level, np.uint8) for level in (20, 120, 220)]
    with VideoWriter(tmp_path / "new" / "video.mp4", 10) as video:
        for frame in frames:
            video.write(frame)
    assert video.frames == 3
    np.testing.assert_allclose(list(read_video(tmp_path / "new" / "video.mp4")), frames, atol=4)


@pytest.mark.parametrize(
    ("shape", "message"), [((31, 48, 3), "even sides"), ((64, 48, 3), r"those before are \(48, 32\)")]
)
def test_image_of_a_wrong_size_is_rejected(tmp_path: Path, shape: tuple[int, int, int], message: str) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10) as video:
        if shape[0] % 2 == 0:
            video.write(np.zeros((32, 48, 3), np.uint8))
        with pytest.raises(ValueError, match=message):
            video.write(np.zeros(shape, np.uint8))


def test_file_that_is_no_video_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "video.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match="not a video that ffmpeg can read"):
        next(read_video(tmp_path / "video.mp4"))
