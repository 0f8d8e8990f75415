"""Clips as files: what a shard packs when it does not pack the input itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClipFile:
    """One clip that lies ready to be packed.

    Attributes:
        path: the file.
        container: extension that says what the container is, lower case, no dot.
        start_seconds: time of its first picture, counted from the first picture of the video.
        duration_seconds: from its first picture to the first picture of the next clip; for the last clip to the end of
            the video.
        num_frames: pictures that are shown.
        bytes: size of the file.
    """

    path: str
    container: str
    start_seconds: float
    duration_seconds: float
    num_frames: int
    bytes: int
