"""Settings of ``shards/build.py``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...core.errors import Reason, UsageError
from ..sources.inputs import SourceOptions
from ..sources.listing import LAYOUTS
from ..video.container import Limits
from ..video.frame_names import FrameNames
from ..video.isolation import Check

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMG]I?B|B?)\s*", re.IGNORECASE)


def parse_size(text: str, field: str) -> int:
    """Bytes of "512MB", "2 GiB" or "1000". Raises UsageError that names ``field``."""
    match = _SIZE.fullmatch(text)
    size = (
        int(float(match[1]) * _UNITS[match[2].upper().removesuffix("B") + "B" if len(match[2]) > 1 else ""])
        if match
        else 0
    )
    if size < 1:
        raise UsageError(f"{field}: {text!r} is not a size; write for example 512MB or 2GiB")
    return size


@dataclass(frozen=True)
class BuildConfig:
    """Pack videos into shards: tar files with the original bytes, and two tables that say what is in them."""

    videos: tuple[Path, ...]
    """With --layout files: folders, video files, and lists (.txt with a path a line; .csv with the columns video_id
    and path). With another layout: the folder of the data set, of frame folders or of arrays."""

    output: Path
    """Folder for the shards; made when missing. A stopped build goes on from there."""

    layout: str = "files"
    """How the videos lie on the disk: files, frames (a folder of images is a video), npy (arrays N x H x W x C), or a
    data set: fivr, fivr5k, vcdb, cc_web_video, evve, svd, ucf101, hmdb51, kinetics (see docs/datasets.md)."""

    ids: Path | None = None
    """Take exactly the ids of this file, an id a line: those without a file are missing, other files are left out."""

    annotations: tuple[Path, ...] = ()
    """Annotation files of a data set, instead of those below its folder."""

    pattern: str | None = None
    """Where the video of an id lies below the folder of a data set, for example "{id}/video.*"."""

    clip_seconds: float | None = None
    """Cut videos that are longer at keyframes into clips of about so many seconds, without encoding anything again;
    default: every video is one clip."""

    frame_rate: float = 25.0
    """Frames per second of frame folders whose files are numbered, and of arrays."""

    frame_names: FrameNames = "auto"
    """What the file names of frames say: a number, or the time in seconds or milliseconds; auto looks at the names."""

    shard_bytes: str = "512MB"
    """Begin a new shard when the videos of one would be larger; a single larger video gets a shard to itself."""

    shard_videos: int = 1000
    """Most videos in a shard."""

    limit: int | None = None
    """Take the first so many inputs in order of id; default all."""

    workers: int = 0
    """Processes that probe videos; 0 means one per core of this machine, shared between the ranks on it."""

    check: Check = "first"
    """How closely a video is looked at: "first" reads all packets and decodes the first picture, "full" decodes every
    picture, which costs as much as extracting features."""

    max_reject_share: float = 0.5
    """End with exit code 3 when a larger share of the inputs is rejected. The shards are complete either way; the
    default notices a wrong folder or a broken disk, not a few bad files."""

    timeout_seconds: float = 60.0
    """Time for one file, seconds; its size adds to it (1 second per 10 MB, with --check full per 0.5 MB)."""

    memory: str = "6GiB"
    """Address space of a probing process; a file that needs more is rejected."""

    max_side: int = 16384
    """Largest width or height of a picture, pixels."""

    max_pixels: int = 100_000_000
    """Largest number of pixels of a picture."""

    max_hours: float = 24.0
    """Longest video, hours."""

    retry: tuple[str, ...] = ()
    """Take up again what was rejected for these reasons (or "all"); what is usable now goes into new shards. "removed"
    brings back what shards/remove.py took out."""

    add: bool = False
    """Pack the videos whose ids the folder does not know yet into new shards."""

    rebuild: bool = False
    """Replace the shards of a folder that was built with other settings or inputs; what is unchanged is kept."""

    dry_run: bool = False
    """Print what would be done, with sizes and a rough time, and stop."""

    backend: Literal["auto", "horovod", "torch", "single"] = "auto"
    """How several processes work together; auto goes by the launcher (horovodrun, torchrun, or none)."""

    def __post_init__(self) -> None:
        if not self.videos:
            raise UsageError("videos: give at least one folder, video file or list")
        for name in ("shard_videos", "max_side", "max_pixels"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: {getattr(self, name)} is below 1")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"limit: {self.limit} is below 1; leave it out to take every input")
        if self.workers < 0:
            raise UsageError(f"workers: {self.workers} is below 0; 0 chooses by the machine")
        if not 0 <= self.max_reject_share <= 1:
            raise UsageError(f"max_reject_share: {self.max_reject_share} is not a share; write 0.05 for 5 %")
        if self.layout not in LAYOUTS:
            raise UsageError(f"layout: {self.layout!r} is none of {', '.join(LAYOUTS)}")
        if self.add and self.retry:
            raise UsageError("retry: give either --retry or --add; run the command once for each")
        if self.rebuild and (self.add or self.retry):
            raise UsageError("rebuild: --rebuild builds everything anew; leave out --retry and --add")
        known = {reason.value for reason in Reason}
        for reason in self.retry:
            if reason not in known and reason != "all":
                raise UsageError(f"retry: {reason!r} is no reason; give all, or some of {', '.join(sorted(known))}")
        if self.clip_seconds is not None and not 0.1 <= self.clip_seconds < float("inf"):
            raise UsageError(f"clip_seconds: {self.clip_seconds} is below 0.1; leave it out to keep videos whole")
        for name in ("timeout_seconds", "max_hours", "frame_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UsageError(f"{name}: {getattr(self, name)} is not a positive number")
        self.shard_limit_bytes, self.memory_bytes  # noqa: B018 - both complain about a bad value

    @property
    def shard_limit_bytes(self) -> int:
        """``shard_bytes`` as a number."""
        return parse_size(self.shard_bytes, "shard_bytes")

    @property
    def memory_bytes(self) -> int:
        """``memory`` as a number."""
        return parse_size(self.memory, "memory")

    @property
    def limits(self) -> Limits:
        """What counts as a video."""
        return Limits(self.max_side, self.max_pixels, self.max_hours * 3600)

    @property
    def source_options(self) -> SourceOptions:
        """What layouts may need to know."""
        return SourceOptions(self.ids, self.annotations, self.pattern)

    @property
    def retry_reasons(self) -> frozenset[str]:
        """``retry`` with "all" spelled out; what was taken out on request comes back only when it is named."""
        every = {reason.value for reason in Reason if reason is not Reason.REMOVED} if "all" in self.retry else set()
        return frozenset(every | set(self.retry) - {"all"})

    def effective(self) -> dict[str, Any]:
        """The settings that decide the bytes of the output; no paths, nothing about the machine."""
        return {
            "shard_bytes": self.shard_limit_bytes,
            "shard_videos": self.shard_videos,
            "limit": self.limit,
            "check": self.check,
            "max_side": self.max_side,
            "max_pixels": self.max_pixels,
            "max_hours": self.max_hours,
            "clip_seconds": self.clip_seconds,
            "frame_rate": self.frame_rate,
            "frame_names": self.frame_names,
        }
