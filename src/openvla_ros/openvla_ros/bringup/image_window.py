"""A desktop window that displays images."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np


class ImageWindow:
    """A desktop window for images, drawn by tkinter: no GUI build of OpenCV is needed.

    Raises RuntimeError without a display or tkinter.
    """

    def __init__(self, title: str) -> None:
        if sys.platform.startswith("linux") and not os.environ.get("DISPLAY"):
            raise RuntimeError("--show needs a display, but DISPLAY is not set; set it or omit --show")
        try:
            import tkinter
        except ImportError as error:
            raise RuntimeError("--show needs tkinter: apt install python3-tk") from error
        try:
            self._root: Any = tkinter.Tk()
        except tkinter.TclError as error:
            raise RuntimeError(f"--show cannot open a window: {error}") from error
        self._tkinter = tkinter
        self._root.title(title)
        self._label = tkinter.Label(self._root, borderwidth=0)
        self._label.pack()
        self._open = True
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, frame: np.ndarray) -> None:
        """Display a frame (uint8 RGB, (H, W, 3)); does nothing after the window was closed."""
        if not self._open:
            return
        header = f"P6 {frame.shape[1]} {frame.shape[0]} 255\n".encode()
        self._image = self._tkinter.PhotoImage(data=header + frame.tobytes(), format="PPM")
        self._label.configure(image=self._image)
        self._root.update()

    def close(self) -> None:
        """Close the window; safe to call twice."""
        if self._open:
            self._open = False
            self._root.destroy()
