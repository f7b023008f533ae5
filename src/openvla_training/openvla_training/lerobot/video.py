"""Videos through the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODEC, QUALITY, KEY_FRAME = "libx264", 18, 2  # CRF; a key frame every second picture makes random access cheap
INFO = {"video.codec": "h264", "video.pix_fmt": "yuv420p"}


class VideoWriter:
    """Encodes RGB frames (H, W, 3) into one MP4 file; lossy."""

    def __init__(self, path: Path, height: int, width: int, fps: int) -> None:
        import imageio_ffmpeg

        if height % 2 or width % 2:
            raise ValueError(f"images are {height} x {width}; video needs even sides: use --images png")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.frames = 0
        self._writer = imageio_ffmpeg.write_frames(
            str(path),
            (width, height),
            fps=fps,
            codec=CODEC,
            quality=None,
            macro_block_size=1,
            ffmpeg_log_level="error",
            output_params=["-crf", str(QUALITY), "-g", str(KEY_FRAME), "-bf", "0", "-threads", "1"],
        )
        self._writer.send(None)

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame."""
        self._writer.send(np.ascontiguousarray(frame))
        self.frames += 1

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def read_video(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video as RGB (H, W, 3), in order.

    Raises:
        ValueError: ffmpeg cannot decode it.
    """
    import imageio_ffmpeg

    try:
        # Every coded picture once: ffmpeg would otherwise repeat or drop some to keep a steady rate.
        reader: Any = imageio_ffmpeg.read_frames(str(path), output_params=["-fps_mode", "passthrough"])
        width, height = next(reader)["source_size"]
    except (OSError, StopIteration, RuntimeError) as error:
        raise ValueError(
            f"{path}: not a video that ffmpeg can read ({str(error).strip().splitlines()[-1:]})"
        ) from error
    for data in reader:
        yield np.frombuffer(data, np.uint8).reshape(height, width, 3)
