"""Which pictures of a video are taken, and for which instants.

Everything here reads a decoding plan, so the choice is made before a picture is decoded and is the same for every
decoder. ``times`` is the default: the picture that a viewer sees at 0, 1/fps, 2/fps, ... seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ...core.errors import UsageError
from .probe import DecodingPlan

SamplingMode = Literal["times", "keyframes", "all", "tca-legacy"]

_PTS_TOLERANCE_SECONDS = 1e-6  # float rounding of time stamps
_END_TOLERANCE_SECONDS = 2e-3  # containers that count milliseconds
_LEGACY_HIGHEST_RATE = 144.0
_LEGACY_FALLBACK_RATE = 25


@dataclass(frozen=True)
class Sampling:
    """How pictures are chosen.

    Attributes:
        mode: "times", the pictures shown at k/fps; "keyframes", keyframes at their own times, and of those closer
            together than 1/fps to the one kept before only the first; "all", every picture; "tca-legacy", as TCA's
            published code picks them (see `legacy_indices`).
        fps: samples per second for "times", the most of them for "keyframes"; without effect on the other two.
    """

    mode: SamplingMode = "times"
    fps: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in get_args(SamplingMode):
            raise UsageError(f"sampling: {self.mode!r} is none of {', '.join(get_args(SamplingMode))}")
        if not 0 < self.fps < math.inf:
            raise UsageError(f"fps: {self.fps} is not a positive number of samples per second")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"mode": self.mode, "fps": self.fps}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Sampling:
        """What `as_dict` gave.

        Raises:
            UsageError: a value is not among those above.
        """
        return cls(values["mode"], float(values["fps"]))


@dataclass(frozen=True, eq=False)
class Samples:
    """The chosen pictures of one clip.

    Attributes:
        indices: int64 [T], ascending, repeats allowed: positions in ``DecodingPlan.pts``.
        times: float64 [T], ascending, seconds from the clip's first picture.
        keyframes_only: only keyframes are among them by the choice of the mode: a decoder may leave out the rest.
    """

    indices: np.ndarray
    times: np.ndarray
    keyframes_only: bool = False

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, which: np.ndarray) -> Samples:
        """Some of them: ``which`` is bool [T], or ascending positions."""
        return Samples(self.indices[which], self.times[which], self.keyframes_only)


def choose(plan: DecodingPlan, sampling: Sampling, start_seconds: float = 0.0) -> Samples:
    """Choose the pictures of a clip.

    Args:
        plan: of the clip.
        sampling: how to choose.
        start_seconds: of a clip cut out of a video, where it begins there. "times" and "all" choose the same pictures
            of a video whether it is cut or not; so does "keyframes" unless they are closer together than 1/fps: the
            first one of each clip is always kept.

    Returns:
        At least one sample, except for "times" in a short clip that begins after 0. The samples of "keyframes", "all"
        and "tca-legacy" bear their pictures' own times. A video without a keyframe gives its first picture.

    Raises:
        UsageError: "tca-legacy" of a clip that begins after 0: its pictures are counted from the video's first. (The
            first clip of a cut video cannot be told from a whole one here.)
    """
    seconds = plan.probe.pts_seconds
    if sampling.mode == "times":
        indices = sample_times(seconds, plan.probe.duration_seconds, sampling.fps, start_seconds)
        return Samples(indices, first_instant(sampling.fps, start_seconds) + np.arange(len(indices)) / sampling.fps)
    if sampling.mode == "keyframes":
        indices = _keyframes(seconds, plan.probe.keyframes, sampling.fps)
        return Samples(indices, seconds[indices], keyframes_only=bool(plan.probe.keyframes[indices].all()))
    if sampling.mode == "tca-legacy":
        if start_seconds > 0:
            raise UsageError(
                f"sampling tca-legacy counts the pictures of whole videos, and a clip begins {start_seconds:.3f} "
                "seconds into its video: build the shards without --clip-seconds, or sample by times"
            )
        indices = legacy_indices(len(seconds), plan.announced_fps)
    else:
        indices = np.arange(len(seconds), dtype=np.int64)
    return Samples(indices, seconds[indices])


def sample_times(pts_seconds: np.ndarray, duration: float, fps: float, start_seconds: float = 0.0) -> np.ndarray:
    """Which pictures are shown at t = 0, 1/fps, 2/fps, ... within the duration.

    Args:
        pts_seconds: float [N], ascending, N >= 1; counted from the first one.
        duration: seconds from the first picture to the end of the last one.
        fps: samples per second.
        start_seconds: of a clip, where it begins in its video: the clips of a video are sampled at the instants of the
            whole, so that cutting changes no sample.

    Returns:
        int64 [T], ascending indices into ``pts_seconds``; a picture that stays longer than 1/fps is repeated. Sample k
        is taken `first_instant` + k/fps seconds after the first picture. T >= 1 for a clip that begins at 0.

    Raises:
        ValueError: no pictures, or fps not positive.
    """
    if not len(pts_seconds):
        raise ValueError("pts_seconds is empty: a video without pictures has no samples")
    if not 0 < fps < math.inf:
        raise ValueError(f"fps is {fps}: give a positive number")
    first = first_instant(fps, start_seconds)
    count = max(int(start_seconds <= 0), int(np.ceil((duration - _END_TOLERANCE_SECONDS - first) * fps)))
    instants = first + np.arange(count) / fps
    relative = np.asarray(pts_seconds, np.float64) - pts_seconds[0]
    shown = np.searchsorted(relative, instants + _PTS_TOLERANCE_SECONDS, side="right") - 1
    return np.maximum(shown, 0).astype(np.int64)


def first_instant(fps: float, start_seconds: float = 0.0) -> float:
    """Seconds from a clip's first picture to the first instant k/fps of its video that is not the clip's before it."""
    if start_seconds <= 0:
        return 0.0
    return float(np.ceil((start_seconds - _END_TOLERANCE_SECONDS) * fps)) / fps - start_seconds


def legacy_indices(num_frames: int, announced_fps: float) -> np.ndarray:
    """The pictures that TCA's published frame extraction keeps, by counting.

    Picture 0, every picture i with (i + 1) mod round(fps) == 0, and the last of these once more; fps is the
    container's, or 25 when that is above 144 or unknown. Where the published code divides by zero (fps below 0.5 or
    not a number), 25 counts too.

    Args:
        num_frames: pictures in the video, at least 1.
        announced_fps: pictures per second as the container announces them, see ``DecodingPlan.announced_fps``.

    Returns:
        int64 [T], ascending, T >= 2; the last two are the same.
    """
    usable = 0 < announced_fps <= _LEGACY_HIGHEST_RATE  # false for NaN
    step = (round(announced_fps) if usable else 0) or _LEGACY_FALLBACK_RATE
    kept = np.arange(step - 1, num_frames, step, dtype=np.int64)
    if not len(kept) or kept[0]:
        kept = np.concatenate([[0], kept])
    return np.concatenate([kept, kept[-1:]]).astype(np.int64)


def _keyframes(seconds: np.ndarray, keyframes: np.ndarray, fps: float) -> np.ndarray:
    kept: list[int] = []
    for index in np.flatnonzero(keyframes):
        if not kept or seconds[index] - seconds[kept[-1]] > 1 / fps - _END_TOLERANCE_SECONDS:
            kept.append(int(index))
    return np.asarray(kept or [0], np.int64)
