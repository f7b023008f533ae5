"""Video files: H.264 in MP4, written frame by frame with the ffmpeg that imageio-ffmpeg installs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import imageio_ffmpeg
import numpy as np
from numpy.typing import NDArray

from openvla_evaluation.report import pictures
from openvla_evaluation.report.outcomes import Episode
from openvla_evaluation.report.pictures import Caption

FRAME_RATE = 10  # of the demo's video [Hz]; with the session's FRAME_SPACING this is real (simulated) time
HOLD_FRAMES = 12  # how long the verdict of an episode stays
# Small files that browsers start to play before they are loaded whole.
FOR_BROWSERS = ("-crf", "23", "-preset", "veryfast", "-movflags", "+faststart")


class VideoWriter:
    """Encodes RGB frames into one MP4 file (H.264, lossy); the file is complete once it is closed."""

    def __init__(self, path: Path, rate: float, options: tuple[str, ...] = FOR_BROWSERS) -> None:
        """Open a file; an existing one is replaced.

        Args:
            path: The file; its folder is created.
            rate: Frames a second [Hz].
            options: Further options of ffmpeg's encoder.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        self.frames = 0
        self._path, self._rate, self._options = path, rate, options
        self._size: tuple[int, int] | None = None
        self._encoder: Any = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame.

        Args:
            frame: uint8 RGB (H, W, 3), of the same size as the first one.

        Raises:
            ValueError: A side has an odd number of pixels, which H.264 cannot store, or the size differs.
        """
        height, width = frame.shape[:2]
        if self._encoder is None:
            if height % 2 or width % 2:
                raise ValueError(f"{self._path}: images are {height} x {width} pixels; video needs even sides")
            self._size = (width, height)
            self._encoder = imageio_ffmpeg.write_frames(
                str(self._path),
                self._size,
                fps=self._rate,
                codec="libx264",
                quality=None,
                macro_block_size=1,
                ffmpeg_log_level="error",
                output_params=list(self._options),
            )
            self._encoder.send(None)
        if (width, height) != self._size:
            raise ValueError(f"{self._path}: an image is {width} x {height} pixels, those before are {self._size}")
        self._encoder.send(np.ascontiguousarray(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VideoFile(VideoWriter):
    """The demo's video: one episode after the other, each frame beside its action."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FRAME_RATE)

    def add(self, episode: Episode, caption: Caption) -> None:
        """Append an episode's frames and hold the last one with the verdict."""
        for number, step in enumerate(episode.steps, start=1):
            for image in step.images:
                self.write(pictures.draw_frame(image, step, number, caption))
        if episode.steps:
            last = episode.steps[-1]
            verdict = pictures.draw_frame(last.images[-1], last, episode.count, caption, episode.outcome)
            for _ in range(HOLD_FRAMES):
                self.write(verdict)


def read_video(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video in order.

    Args:
        path: A file in any format that ffmpeg decodes.

    Yields:
        uint8 RGB (H, W, 3).

    Raises:
        ValueError: ffmpeg cannot decode it.
    """
    try:
        # Each coded picture once: by default ffmpeg repeats and drops some to keep a steady rate.
        reader: Any = imageio_ffmpeg.read_frames(str(path), output_params=["-fps_mode", "passthrough"])
        width, height = next(reader)["source_size"]
    except (OSError, StopIteration, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no frame"])[-1]
        raise ValueError(f"{path}: not a video that ffmpeg can read ({reason})") from error
    for data in reader:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
