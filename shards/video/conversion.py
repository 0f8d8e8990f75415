"""Decoded pictures become RGB arrays: scaled, in the right colours, upright."""

from __future__ import annotations

from typing import Literal

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

from .legacy_scaling import resize_cubic
from .orientation import Orientation

Scaling = Literal["area", "tca"]

# Rounded the same way on every processor; the fast path of swscale is off by up to 2 of 255 when it scales.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT


class Converter:
    """Turns decoded pictures into RGB arrays of one size: swscale applies the video's colour matrix and range.

    Args:
        short_side: pixels of the shorter side; None keeps the size.
        scaling: see `decode.iter_frames`.
        orientation: how to lay the pictures.
    """

    def __init__(self, short_side: int | None, scaling: Scaling, orientation: Orientation) -> None:
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side is {short_side}: give a number of pixels above 0, or None")
        self._short_side = short_side
        self._scaling = scaling
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: VideoFrame) -> np.ndarray:
        """uint8 [H, W, 3] of a decoded picture."""
        legacy = self._scaling == "tca"
        if self._size is None:
            self._size = scaled_size(frame.width, frame.height, None if legacy else self._short_side)
        width, height = self._size
        if (width, height) == (frame.width, frame.height):
            layout, flags = "rgb24", Interpolation.BICUBIC
        else:
            # The same numbers as rgb24, which swscale computes five times as slowly: without vector instructions.
            layout = "gbrp"
            shrinking = width <= frame.width and height <= frame.height
            flags = (Interpolation.AREA if shrinking else Interpolation.BICUBIC) | _EXACT
        # OpenCV up to version 4 leaves swscale at its default; None: as the video says.
        matrix = Colorspace.ITU601 if legacy else None
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=layout,
            interpolation=flags,
            dst_color_range="JPEG",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            threads=1,
        )
        picture = self._orientation.apply(rgb.to_ndarray())
        if legacy and self._short_side is not None:
            return resize_cubic(picture, self._short_side)
        return np.ascontiguousarray(picture)


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side is scaled to ``short_side`` pixels; None keeps the size."""
    if short_side is None:
        return width, height
    ratio = short_side / min(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))
