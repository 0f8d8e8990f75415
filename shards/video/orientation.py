"""How a stored picture is turned and mirrored for display.

Phones store every picture as the sensor sees it and add a 3x3 display matrix (ISO/IEC 14496-12, track header; the same
in Matroska's projection and in H.264/HEVC display orientation messages). It maps a point of the stored picture, x to
the right and y down, to ``(a*x + c*y, b*x + d*y)``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import av.error
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

_MATRIX_BYTES = 36


@dataclass(frozen=True, slots=True)
class Orientation:
    """One of the eight ways to lay a picture: swap its axes first, then mirror.

    Attributes:
        transpose: swap rows and columns.
        flip_x: then mirror left and right.
        flip_y: then mirror top and bottom.
    """

    transpose: bool = False
    flip_x: bool = False
    flip_y: bool = False

    @classmethod
    def from_matrix(cls, a: float, b: float, c: float, d: float) -> Orientation:
        """The nearest of the eight for a display matrix; the identity for a matrix of zeros."""
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, a < 0, d < 0)
        return cls(True, c < 0, b < 0)

    @classmethod
    def of(cls, frame: VideoFrame) -> Orientation:
        """The orientation that a decoded frame carries; the identity when it carries none."""
        # A frame and its side data refer to one another and wait for the garbage collector: let a small copy wait.
        try:
            frame = VideoReformatter().reformat(
                frame, width=2, height=2, format="gray", interpolation=Interpolation.POINT, threads=1
            )
        except (av.error.FFmpegError, ValueError):  # a pixel format that cannot be converted
            pass
        try:
            matrix = bytes(frame.side_data["DISPLAYMATRIX"])  # type: ignore[typeddict-item]
        except KeyError:
            return cls()
        if len(matrix) < _MATRIX_BYTES:
            return cls()
        a, b, _, c, d = struct.unpack("=9i", matrix[:_MATRIX_BYTES])[:5]
        return cls.from_matrix(a, b, c, d)

    @property
    def degrees(self) -> int:
        """Clockwise rotation for display: 0, 90, 180 or 270 (then mirrored left and right, if at all)."""
        if not self.transpose:
            return 180 if self.flip_y else 0
        return 90 if self.flip_x else 270

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Lay out ``picture`` [H, W, ...] for display; a view, [W, H, ...] when the axes are swapped."""
        if self.transpose:
            picture = picture.swapaxes(0, 1)
        if self.flip_y:
            picture = picture[::-1]
        if self.flip_x:
            picture = picture[:, ::-1]
        return picture
