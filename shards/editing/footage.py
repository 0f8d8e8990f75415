"""Moving pictures that can be sampled at any rate: a file, or arrays in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from ..video.decode import iter_frames
from ..video.probe import make_plan
from ..video.sampling import Sampling, choose, sample_times


class Footage(Protocol):
    """What edited copies are made from.

    Attributes:
        width, height: size of the pictures in pixels, as displayed.
        fps: pictures per second.
        duration_seconds: from the first picture to the end of the last.
    """

    width: int
    height: int
    fps: float
    duration_seconds: float

    def sampled(self, rate: float) -> Iterator[np.ndarray]:
        """The pictures shown at 0, 1/rate, 2/rate, ... seconds: uint8 [height, width, 3], RGB."""
        ...


class FileFootage:
    """A video file, decoded as it is read: memory does not grow with its length.

    Args:
        path: the file.
        short_side: pictures with a longer short side are shrunk to this many pixels; None keeps the size.

    Raises:
        DataError: the file cannot be used as a video; `sampled` raises it too, at damage after good pictures.
    """

    def __init__(self, path: Path, short_side: int | None = None) -> None:
        self._path, self._plan = path, make_plan(path)
        probe = self._plan.probe
        if self._plan.damage is not None:
            raise self._plan.damage
        own = min(probe.width, probe.height)
        self._short_side = short_side if short_side is not None and short_side < own else None
        first = next(self.sampled(1.0))
        self.height, self.width = first.shape[:2]
        self.fps, self.duration_seconds = probe.fps, probe.duration_seconds

    def sampled(self, rate: float) -> Iterator[np.ndarray]:
        """See `Footage`."""
        samples = choose(self._plan, Sampling("times", rate))
        for frame in iter_frames(self._path, plan=self._plan, samples=samples, short_side=self._short_side):
            yield frame.picture


class ArrayFootage:
    """Pictures in memory.

    Args:
        frames: uint8 [T, H, W, 3], RGB, T at least 1.
        times: float [T], ascending seconds from the first picture.
        duration_seconds: to the end of the last picture; default: the last picture lasts as long as the mean one.
    """

    def __init__(self, frames: np.ndarray, times: np.ndarray, duration_seconds: float | None = None) -> None:
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or len(frames) != len(times):
            raise ValueError(f"expected uint8 frames [T, H, W, 3] and T times, got {frames.dtype} {frames.shape}")
        self._frames, self._times = frames, np.asarray(times, np.float64)
        self.height, self.width = frames.shape[1:3]
        if duration_seconds is None:
            mean = (self._times[-1] - self._times[0]) / max(1, len(times) - 1)
            duration_seconds = float(self._times[-1] - self._times[0] + (mean or 1.0))
        self.duration_seconds = duration_seconds
        self.fps = len(frames) / duration_seconds

    def sampled(self, rate: float) -> Iterator[np.ndarray]:
        """See `Footage`."""
        for index in sample_times(self._times, self.duration_seconds, rate):
            yield self._frames[index]
