"""What the readers give: one video after the other, in a fixed order, each with its numbers or the reason why not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...core.errors import DataError, Reason
from ...shards.sources.inputs import printable

VIDEO_BYTES = 4 << 30
"""A video whose numbers would take more memory is rejected: a small file can announce any size."""

EXPORT_FORMAT = "reelkin-features-export"
ESCAPED = "escaped/"
"""Under this prefix lie videos whose ids cannot be names in a layout; the true id is recorded beside."""


@dataclass(frozen=True, eq=False)
class Item:
    """A video as a layout has it.

    Attributes:
        video_id: its id.
        features: floating point [T, D], [T, R, D] or [D]; None when ``problem`` says why.
        times: real [T] seconds, or [T, 2] from and to; None when the layout does not tell.
        problem: why there are no features.
    """

    video_id: str
    features: np.ndarray | None
    times: np.ndarray | None = None
    problem: DataError | None = None


class Reader(Protocol):
    """A file or folder that holds features.

    Attributes:
        layout: "hdf5", "npy" or "npz".
        unit: what its length counts, "videos" or "frames".
        fps: frames per second that the source names, if it does.
        timed: it says when each frame was.
        fingerprint: changes when the content does.
    """

    layout: str
    unit: str
    fps: float | None
    timed: bool
    fingerprint: str

    def __len__(self) -> int:
        """Number of ``unit``."""
        ...

    def read(self, first: int) -> Iterator[Item]:
        """Videos in a fixed order, beginning with number ``first``."""
        ...


class Writer(Protocol):
    """A file or folder in the making."""

    def add(self, video_id: str, features: np.ndarray, times: np.ndarray | None) -> None:
        """Write a video: features [T, D] or [T, R, D]; times float64 [T], or None where they are k / fps."""
        ...


def refuse_array(shape: tuple[int, ...], dtype: np.dtype) -> DataError | None:
    """Why an array that announces this shape and type is no video, judged before it is read."""
    if dtype.kind != "f":
        return DataError(Reason.BAD_FRAMES, f"values of type {dtype}; floating point is expected")
    if not 1 <= len(shape) <= 3:
        return DataError(Reason.BAD_FRAMES, f"an array of shape {list(shape)}; expected [T, D], [T, R, D] or [D]")
    if 0 in shape:
        return DataError(Reason.NO_FRAMES, f"an array of shape {list(shape)} holds no frame")
    if int(np.prod([float(side) for side in shape])) * dtype.itemsize > VIDEO_BYTES:
        return DataError(Reason.TOO_LARGE, f"an array of shape {list(shape)} takes more than {VIDEO_BYTES >> 30} GiB")
    return None


def bad_id(video_id: str) -> str:
    """Why a text cannot be an id; empty when it can."""
    if not video_id:
        return "the id is empty"
    if printable(video_id) != video_id:
        return "the id holds control characters or bytes that are no UTF-8"
    return "the id begins or ends with a space" if video_id != video_id.strip() else ""


def escaped_name(video_id: str) -> str:
    """A name for an id that cannot be one itself."""
    return ESCAPED + hashlib.sha256(video_id.encode("utf-8", errors="surrogateescape")).hexdigest()[:24]


def is_plain_name(video_id: str, most_bytes: int = 240) -> bool:
    """Whether an id can be a relative path as it is, and come back from it unchanged."""
    parts = video_id.split("/")
    return (
        not video_id.startswith(ESCAPED)
        and "\0" not in video_id
        and not any(part in ("", ".", "..") or len(part.encode()) > most_bytes for part in parts)
        and not any(part.endswith(".npy") for part in parts[:-1])
        and len(video_id.encode()) < 2000
    )


def prefixes(video_id: str) -> Iterator[str]:
    """ "a/b/c" -> "a", "a/b" """
    at = video_id.find("/")
    while at >= 0:
        yield video_id[:at]
        at = video_id.find("/", at + 1)


def fingerprint_of(*parts: object) -> str:
    """A short hash of what identifies a source."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", errors="surrogateescape")).hexdigest()[:32]


def stamp(path: Path) -> str:
    """Size and time of change."""
    found = path.stat()
    return f"{found.st_size} {found.st_mtime_ns}"
