"""The demo's video file: H.264 that browsers play, written while episodes end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio_ffmpeg

from openvla_evaluation.report import pictures
from openvla_evaluation.report.outcomes import Episode
from openvla_evaluation.report.pictures import Caption

FRAME_RATE = 10  # frames a second; with FRAME_SPACING of the session: real (simulated) time
HOLD_FRAMES = 12  # how long the verdict stays


class VideoFile:
    """An file, grown episode by episode; complete whenever it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def add(self, episode: Episode, caption: Caption) -> None:
        """Append the episode's frames and hold the last one with the verdict."""
        for number, step in enumerate(episode.steps, start=1):
            for image in step.images:
                self._send(pictures.draw_frame(image, step, number, caption))
        if episode.steps:
            last = episode.steps[-1]
            verdict = pictures.draw_frame(last.images[-1], last, episode.count, caption, episode.outcome)
            for _ in range(HOLD_FRAMES):
                self._send(verdict)

    def _send(self, frame: Any) -> None:
        if self._writer is None:
            self._writer = imageio_ffmpeg.write_frames(
                str(self._path),
                pictures.VIDEO_SIZE,
                fps=FRAME_RATE,
                codec="libx264",
                quality=None,
                macro_block_size=2,
                output_params=["-crf", "23", "-preset", "veryfast", "-movflags", "+faststart"],
            )
            self._writer.send(None)
        self._writer.send(frame.tobytes())

    def __enter__(self) -> VideoFile:
        self._path.unlink(missing_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
