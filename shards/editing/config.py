"""Settings of ``shards/edits.py``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import UsageError
from .edited_copy import DEFAULT_MAX_FPS, DEFAULT_MAX_SECONDS
from .strengths import STRENGTHS


@dataclass(frozen=True)
class EditsConfig:
    """Make edited copies of videos, with a table of what shows what: ground truth for training and measuring."""

    videos: tuple[Path, ...]
    """Folders, video files, and lists (.txt with a path a line; .csv with the columns video_id and path)."""

    output: Path
    """Folder for the copies and edits.csv; made when missing. A stopped run goes on from there."""

    strengths: str = ",".join(STRENGTHS)
    """Which strengths, separated by commas: easy, medium, hard."""

    per_strength: int = 2
    """Copies of each video at each strength."""

    seed: int = 0
    """Another seed gives other edits."""

    short_side: int = 256
    """Larger pictures are shrunk to this short side (pixels) before they are edited; 0 keeps every size."""

    max_seconds: float = DEFAULT_MAX_SECONDS
    """Only the first so many seconds of a video are used."""

    max_fps: float = DEFAULT_MAX_FPS
    """Copies have the rate of their source, but at most this many pictures per second."""

    limit: int | None = None
    """Take the first so many videos in order of id; default all."""

    workers: int = 0
    """Processes that make copies; 0 means one per core."""

    max_reject_share: float = 0.5
    """End with exit code 3 when a larger share of the videos is rejected. Copies of the others are complete."""

    rebuild: bool = False
    """Remove copies in the folder that these settings do not make."""

    dry_run: bool = False
    """Print what would be made, with a rough size and time, and stop."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise UsageError("videos: give at least one folder, video file or list")
        unknown = set(self.chosen_strengths) - set(STRENGTHS)
        if unknown or not self.chosen_strengths:
            raise UsageError(f"strengths: {self.strengths!r}; write some of {','.join(STRENGTHS)}")
        if self.per_strength < 1:
            raise UsageError(f"per_strength: {self.per_strength} is below 1")
        if self.short_side and self.short_side < 32:
            raise UsageError(f"short_side: {self.short_side} is below 32; 0 keeps every size")
        for name, least in (("max_seconds", 0.1), ("max_fps", 1.0)):
            if not least <= getattr(self, name) < float("inf"):
                raise UsageError(f"{name}: {getattr(self, name)} must be a number of at least {least:g}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every video")
        if self.workers < 0:
            raise UsageError(f"workers: {self.workers} is below 0; 0 chooses by the machine")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share: {self.max_reject_share} is not a share; write 0.05 for 5 %")

    @property
    def chosen_strengths(self) -> tuple[str, ...]:
        """The strengths, in the order easy, medium, hard."""
        named = [part.strip() for part in self.strengths.split(",") if part.strip()]
        return tuple(sorted(set(named), key=lambda name: (STRENGTHS.index(name) if name in STRENGTHS else -1, name)))

    @property
    def num_workers(self) -> int:
        """The number of processes that ``workers`` stands for."""
        return self.workers or len(os.sched_getaffinity(0))
