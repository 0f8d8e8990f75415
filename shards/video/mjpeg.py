"""A video whose pictures are JPEG images: one MP4 with one MJPEG track, each image a packet, byte for byte."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import numpy as np
from av.container import OutputContainer
from av.packet import Packet
from PIL import Image

from ...core.errors import DataError, Reason
from .container import Limits
from .muxing import BITEXACT, abandon_output

JPEG_QUALITY = 95
"""Of images that are encoded here; colour is kept at full resolution (4:4:4)."""

_JPEG_SIDE = 65500  # of libjpeg
_MILLISECOND, _MICROSECOND = Fraction(1, 1000), Fraction(1, 1_000_000)
_MOST_TICKS = 1 << 31  # between two pictures of an MP4
_FINEST_ENOUGH = 10_000  # ticks a second that FFmpeg's muxer has at least


def encode_jpeg(picture: np.ndarray) -> bytes:
    """Encode a picture, uint8 [H, W, 3] RGB, with quality 95 and 4:4:4; the same picture gives the same bytes."""
    if max(picture.shape) > _JPEG_SIDE:
        raise DataError(
            Reason.BAD_DIMENSIONS, f"a JPEG has at most {_JPEG_SIDE} pixels a side, the picture {picture.shape[:2]}"
        )
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return out.getvalue()


def checked_rate(frame_rate: float) -> Fraction:
    """The frame rate as a fraction with a small denominator (29.97 is 2997/100, 30000/1001 itself).

    Raises:
        ValueError: not above 0 and at most 1000.
    """
    rate = Fraction(frame_rate).limit_denominator(1001) if 0 < frame_rate <= 1000 else Fraction(0)
    if not rate:
        raise ValueError(f"frame_rate is {frame_rate}; it must be above 0.001 and at most 1000 pictures per second")
    return rate


class MjpegWriter:
    """Write JPEG images with their times into an MP4; end with `finish`, or with `abandon` after an error.

    Args:
        path: where the file goes; written directly, without a temporary name.
        times: of all pictures, seconds, ascending, the first 0.
        frame_rate: pictures per second; the last picture is shown for one step of it, or as long as pictures usually
            are where that is longer.
        limits: longest video.

    Raises:
        DataError: TOO_LONG; BAD_FRAMES when two pictures are closer than a microsecond.
        OSError: the disk is full, or the file cannot be written.
    """

    def __init__(self, path: Path, times: Sequence[Fraction], frame_rate: Fraction, limits: Limits) -> None:
        if times[-1] > limits.max_seconds:
            seconds = float(min(times[-1], Fraction(10**12)))
            raise DataError(Reason.TOO_LONG, f"{seconds:.0f} seconds; the limit is {limits.max_seconds:.0f}")
        self._base = _time_base(times, frame_rate)
        ticks = np.array([round(time / self._base) for time in times], np.int64)
        steps = np.diff(ticks)
        if (steps <= 0).any():
            raise DataError(Reason.BAD_FRAMES, "two pictures are less than a microsecond apart")
        scale = self._base.denominator * max(1, 2 * _FINEST_ENOUGH // self._base.denominator)
        if len(steps) and int(steps.max()) * self._base * scale >= _MOST_TICKS:
            raise DataError(Reason.TOO_LONG, "the time between two pictures is longer than an MP4 can say")
        usual = int(np.median(steps)) if len(steps) else 0
        self._ticks = ticks.tolist()
        self._steps = [*steps.tolist(), max(1, usual, round(1 / frame_rate / self._base))]
        self._written = 0
        self._size: tuple[int, int] | None = None
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by finish and abandon
        self._out: OutputContainer | None = None
        self._stream: Any = None

    def write(self, jpeg: bytes, width: int, height: int) -> None:
        """Append the next picture; all have the size of the first."""
        if self._out is None:
            self._out = av.open(self._file, "w", format="mp4", options=BITEXACT)
            self._stream = self._out.add_mux_stream("mjpeg", width=width, height=height, time_base=self._base)
        packet = Packet(jpeg)
        packet.stream = self._stream
        packet.time_base = self._base
        packet.pts = packet.dts = self._ticks[self._written]
        packet.duration = self._steps[self._written]
        packet.is_keyframe = True
        self._out.mux(packet)
        self._written += 1

    def finish(self) -> None:
        """Write the end of the file and close it."""
        assert self._out is not None and self._written == len(self._ticks)
        try:
            self._out.close()
            self._file.close()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        abandon_output(self._file, self._out)


def _time_base(times: Sequence[Fraction], frame_rate: Fraction) -> Fraction:
    """The coarsest of: a picture, a millisecond, a microsecond, that says every time exactly.

    Where none does: a microsecond, or a millisecond when a picture is shown for more than 35 minutes, which an MP4
    does not count in microseconds.
    """
    longest = max((b - a for a, b in itertools.pairwise(times)), default=Fraction(0))
    for base in (1 / frame_rate, _MILLISECOND, _MICROSECOND):
        if all((time / base).denominator == 1 for time in times):
            return base
    return _MICROSECOND if longest < _MOST_TICKS * _MICROSECOND else _MILLISECOND
