"""What a copy shows when: trim, speed, frame rate and join as a list of pictures, and the segments that follow.

A copy has a constant rate. Picture k of a part taken from the source is the picture that the source shows at
``(first + k) * step`` seconds, ``step = speed / fps``; pictures are left out or repeated, never mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from .plan import EditPlan

MIN_FPS = 1.0
_TOLERANCE = 1e-6  # of a picture: float rounding


@dataclass(frozen=True)
class Segment:
    """A stretch of the copy and the stretch of the source that it shows, in seconds; time runs evenly in both."""

    source_start: float
    source_end: float
    copy_start: float
    copy_end: float


@dataclass(frozen=True)
class Part:
    """Consecutive pictures of a copy: ``count`` samples of the source or of the other video, from number ``first``."""

    of_source: bool
    first: int
    count: int


@dataclass(frozen=True)
class Timeline:
    """All pictures of a copy in order.

    Attributes:
        fps: pictures per second of the copy.
        source_rate, other_rate: samples per second that the parts count in, of the source and of the other video.
        parts: what is shown, in order.
        background_first, background_count: the other video behind a picture in picture: sample to begin with, and the
            number of samples after which it begins again; both 0 without one.
    """

    fps: Fraction
    source_rate: float
    other_rate: float
    parts: tuple[Part, ...]
    background_first: int = 0
    background_count: int = 0

    @property
    def num_frames(self) -> int:
        """Pictures of the copy."""
        return sum(part.count for part in self.parts)

    @property
    def duration_seconds(self) -> float:
        """Length of the copy."""
        return float(self.num_frames / self.fps)

    def segments(self, of_source: bool = True) -> list[Segment]:
        """Where the copy shows its source (or, with False, where it shows nothing but the other video)."""
        rate = self.source_rate if of_source else self.other_rate
        done, found = 0, []
        for part in self.parts:
            if part.of_source == of_source:
                start, end = part.first / rate, (part.first + part.count) / rate
                found.append(Segment(start, end, float(done / self.fps), float((done + part.count) / self.fps)))
            done += part.count
        return found


def lay_out(plan: EditPlan, seconds: float, fps: float, other_seconds: float = 0.0, *, max_fps: float) -> Timeline:
    """Arrange a copy.

    Args:
        plan: the copy's plan.
        seconds: length of the source that is used, seconds.
        fps: the source's pictures per second.
        other_seconds: length of the other video that is used; 0 without one.
        max_fps: upper limit for the copy's rate.

    Returns:
        The timeline; it has at least one picture of the source.
    """
    rate = min(max(fps, MIN_FPS), max_fps)
    if edit := plan.get("frame_rate"):
        rate = max(MIN_FPS, rate * edit["share"])
    copy_fps = Fraction(rate).limit_denominator(1001)
    speed = plan.get("speed")
    source_rate = float(copy_fps) / (speed["factor"] if speed else 1.0)
    total = max(1, math.floor(seconds * source_rate + _TOLERANCE))
    parts = _trimmed(plan, total)
    other_total = math.floor(other_seconds * float(copy_fps) + _TOLERANCE) if other_seconds > 0 else 0
    other_total = max(1, other_total) if other_seconds > 0 else 0
    background_first = background_count = 0
    if (edit := plan.get("join")) and other_total:
        parts = _joined(parts, edit["length"], edit["side"], edit["start"], other_total)
    if (edit := plan.get("picture_in_picture")) and other_total:
        needed = min(other_total, sum(part.count for part in parts))
        background_first = min(other_total - needed, int(edit["start"] * (other_total - needed + 1)))
        background_count = other_total - background_first
    return Timeline(copy_fps, source_rate, float(copy_fps), tuple(parts), background_first, background_count)


def _trimmed(plan: EditPlan, total: int) -> list[Part]:
    edit = plan.get("trim")
    if edit is None:
        return [Part(True, 0, total)]
    kept = min(total, max(1, round(total * edit["kept"])))
    removed = total - kept
    if edit["pieces"] == 2 and kept >= 2 and removed >= 1:
        # At least half of what is removed lies between the two pieces.
        lead = min(removed // 4, int(edit["lead"] * (removed // 4 + 1)))
        between = removed - 2 * lead
        first = min(kept - 1, max(1, round(kept * (0.3 + 0.4 * edit["split"]))))
        return [Part(True, lead, first), Part(True, lead + first + between, kept - first)]
    return [Part(True, min(removed, int(edit["lead"] * (removed + 1))), kept)]


def _joined(parts: list[Part], length: float, side: str, start: float, other_total: int) -> list[Part]:
    own = sum(part.count for part in parts)
    count = min(other_total, max(1, round(own * length)))
    first = min(other_total - count, int(start * (other_total - count + 1)))
    if side == "around" and count >= 2:
        half = count // 2
        return [Part(False, first, half), *parts, Part(False, first + half, count - half)]
    added = Part(False, first, count)
    return [*parts, added] if side == "after" else [added, *parts]
