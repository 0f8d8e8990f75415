"""Making one edited copy: the plan's edits applied to moving pictures, as a stream or as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from ...core.errors import DataError, Reason
from ..video.encode import VideoWriter
from . import overlay_edits, pixel_edits
from .footage import Footage
from .pixel_edits import PixelEdit, covering
from .plan import Edit, EditPlan
from .time_edits import Segment, Timeline, lay_out

PIXEL_EDITS: dict[str, Callable[[int, int, Edit], PixelEdit]] = {
    "mirror": pixel_edits.mirror,
    "rotate": pixel_edits.rotate,
    "crop": pixel_edits.crop,
    "brightness_contrast": pixel_edits.brightness_contrast,
    "grey": pixel_edits.grey,
    "blur": pixel_edits.blur,
    "noise": pixel_edits.noise,
    "resize": pixel_edits.resize,
    "letterbox": pixel_edits.letterbox,
    "logo": overlay_edits.logo,
    "text": overlay_edits.text,
}

DEFAULT_MAX_SECONDS = 30.0
DEFAULT_MAX_FPS = 15.0


@dataclass(frozen=True)
class EditedCopy:
    """A copy about to be made.

    Attributes:
        width, height: size of its pictures, pixels.
        fps: pictures per second.
        segments: where it shows its source.
        other_segments: where it shows the joined video alone.
        frames: its pictures, uint8 [height, width, 3]; can be gone through once.
    """

    width: int
    height: int
    fps: Fraction
    segments: list[Segment]
    other_segments: list[Segment]
    frames: Iterator[np.ndarray]


class OtherFailed(DataError):
    """The second video of a join or a picture in picture could not be decoded; the copied one may be sound."""


def edited_copy(
    plan: EditPlan,
    source: Footage,
    other: Footage | None = None,
    *,
    max_seconds: float = DEFAULT_MAX_SECONDS,
    max_fps: float = DEFAULT_MAX_FPS,
) -> EditedCopy:
    """Apply a plan to moving pictures; nothing is decoded before the pictures are asked for.

    Args:
        plan: from `plan_copy`.
        source: the video to copy.
        other: the video that a join or a picture in picture shows too; needed when the plan names one.
        max_seconds: only so much of the beginning of either video is used.
        max_fps: upper limit of the copy's rate; the source's own rate is kept below it.
    """
    if plan.other_source_id and other is None:
        raise ValueError(f"the plan shows {plan.other_source_id!r} too; give it as `other`")
    seconds = min(source.duration_seconds, max_seconds)
    other_seconds = min(other.duration_seconds, max_seconds) if other is not None and plan.other_source_id else 0.0
    timeline = lay_out(plan, seconds, source.fps, other_seconds, max_fps=max_fps)
    background = _Background(other, timeline) if other is not None and timeline.background_count else None
    width, height = source.width, source.height
    steps: list[PixelEdit] = []
    for edit in plan.edits:
        if edit.name in PIXEL_EDITS:
            steps.append(PIXEL_EDITS[edit.name](width, height, edit))
        elif edit.name == "picture_in_picture" and background is not None:
            steps.append(overlay_edits.picture_in_picture(width, height, edit, background))
        else:
            continue  # an edit of time, or the encoding
        width, height = steps[-1].width, steps[-1].height
    frames = _frames(timeline, source, other, steps, (width, height))
    return EditedCopy(width, height, timeline.fps, timeline.segments(), timeline.segments(False), frames)


def write_copy(
    plan: EditPlan,
    source: Footage,
    path: Path,
    other: Footage | None = None,
    *,
    max_seconds: float = DEFAULT_MAX_SECONDS,
    max_fps: float = DEFAULT_MAX_FPS,
) -> EditedCopy:
    """Make a copy and publish it as a file; the same plan and videos give the same bytes.

    Returns:
        The copy that was written; its pictures are used up.

    Raises:
        DataError: the source cannot be decoded.
        OtherFailed: (a DataError) the other video cannot be decoded.
        ReelkinError: the file cannot be written.
    """
    copy = edited_copy(plan, source, other, max_seconds=max_seconds, max_fps=max_fps)
    encode = plan.edits[-1]
    with VideoWriter(path, copy.width, copy.height, copy.fps, encode["codec"], encode["quality"]) as writer:
        for frame in copy.frames:
            writer.write(frame)
    return copy


def _frames(
    timeline: Timeline, source: Footage, other: Footage | None, steps: list[PixelEdit], size: tuple[int, int]
) -> Iterator[np.ndarray]:
    own = _Samples(source, timeline.source_rate)
    joined = _Samples(other, timeline.other_rate, other=True) if other is not None else None
    number = 0
    for part in timeline.parts:
        for index in range(part.first, part.first + part.count):
            if part.of_source:
                frame = own.at(index)
                for step in steps:
                    frame = step.apply(frame, number)
            else:
                assert joined is not None
                frame = covering(joined.at(index), *size)
            yield frame
            number += 1


class _Samples:
    """Samples of moving pictures by number; numbers must not fall, unless one begins again."""

    def __init__(self, footage: Footage, rate: float, other: bool = False) -> None:
        self._footage, self._rate, self._other = footage, rate, other
        self._stream, self._next = footage.sampled(rate), 0
        self._last: np.ndarray | None = None

    def at(self, number: int) -> np.ndarray:
        if number < self._next - 1:
            self._stream, self._next, self._last = self._footage.sampled(self._rate), 0, None
        try:
            while self._next <= number:
                # A duration rounded up by its container can promise a sample too many: the last picture stays.
                self._last, self._next = next(self._stream, self._last), self._next + 1
        except DataError as error:
            if self._other:
                raise OtherFailed(error.reason, str(error)) from error
            raise
        if self._last is None:
            raise (OtherFailed if self._other else DataError)(Reason.NO_FRAMES, "no picture could be decoded")
        return self._last


class _Background:
    """The other video behind a picture in picture: begins again when it ends."""

    def __init__(self, other: Footage, timeline: Timeline) -> None:
        self._samples = _Samples(other, timeline.other_rate, other=True)
        self._first, self._count = timeline.background_first, timeline.background_count

    def __call__(self, number: int) -> np.ndarray:
        return self._samples.at(self._first + number % self._count)
