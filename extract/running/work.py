"""What there is to extract, in pieces: a piece becomes a block of the store, and is the unit of work and of resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import ReelkinError, UsageError
from ...core.seeds import seed_of
from ...shards.manifest import OK, ClipRow, VideoRow
from ...shards.reader import ShardSet
from ...shards.video.sampling import Sampling
from ..decoding.tasks import Source

PIECE_FRAMES = 3600
"""Videos of a shard beyond about so many samples go into a further piece: what a rank holds in memory is bounded, and
the last pieces of a run are shared out evenly."""


@dataclass(frozen=True)
class Piece:
    """Some videos of one shard.

    Attributes:
        shard: the tar's file name.
        block: the block's file name.
        videos: accepted videos, in tar order.
        clips: of each video, by start.
        wanted: the hash of each video's clips: equal hashes, equal features under equal settings.
    """

    shard: str
    block: str
    videos: tuple[VideoRow, ...]
    clips: Mapping[str, tuple[ClipRow, ...]]
    wanted: Mapping[str, str]

    @property
    def seconds(self) -> float:
        """Of video, which is what the work is measured by."""
        return sum(video.duration_seconds for video in self.videos)

    @property
    def bytes(self) -> int:
        """Of all its clips."""
        return sum(clip.bytes for rows in self.clips.values() for clip in rows)

    def sources(self, folder: Path, group: int) -> Iterator[tuple[str, Source]]:
        """The id of the video and the clip for the decoder, in the order in which clips lie in the shard."""
        clips = sorted((clip for rows in self.clips.values() for clip in rows), key=lambda clip: clip.offset)
        for clip in clips:
            place = (folder / self.shard, clip.offset, clip.bytes, clip.sha256)
            yield clip.video_id, Source(clip.key, *place, clip.start_seconds, group)

    @property
    def stem(self) -> str:
        """What the names of all blocks of its shard begin with."""
        return _stem(self.shard)


def list_work(shards: ShardSet, videos: Sequence[VideoRow], sampling: Sampling) -> list[Piece]:
    """All pieces of the accepted videos among ``videos``, in the order of the shards.

    How a shard is divided depends on the shard and the sampling, not on ``videos``: a later run with more of them finds
    its blocks.

    Raises:
        UsageError: "tca-legacy", and a video was cut into clips.
        ReelkinError: the clips of a video lie in several shards, or in none.
    """
    wanted = {video.video_id: video for video in videos if video.status == OK}
    home: dict[str, str] = {}
    work = []
    for shard in shards.shard_names:
        clips: dict[str, list[ClipRow]] = {}
        for clip in shards.clips_of(shard):
            if home.setdefault(clip.video_id, shard) != shard:
                raise ReelkinError(
                    f"the clips of {clip.video_id!r} lie in {home[clip.video_id]} and in {shard}; a video must be in "
                    "one shard: build the shards again"
                )
            clips.setdefault(clip.video_id, []).append(clip)
        if sampling.mode == "tca-legacy" and (cut := [name for name, rows in clips.items() if len(rows) > 1]):
            raise UsageError(
                f"sampling tca-legacy counts the pictures of whole videos, and {cut[0]!r} was cut into clips: build "
                "the shards without --clip-seconds, or sample by times"
            )
        for number, names in enumerate(_divided(clips, sampling)):
            kept = [name for name in names if name in wanted]
            if kept:
                work.append(_piece(shard, number, [wanted[name] for name in kept], clips))
    missing = sorted(wanted.keys() - home.keys())
    if missing:
        raise ReelkinError(
            f"{len(missing)} videos of the manifest are in no shard ({missing[0]!r}); build the shards again"
        )
    return work


def expected_frames(clip: ClipRow, sampling: Sampling) -> int:
    """About how many samples a clip gives; for keyframes at most so many."""
    rate = {"times": sampling.fps, "keyframes": sampling.fps, "tca-legacy": 1.0}.get(sampling.mode)
    return clip.num_frames if rate is None else max(1, round(clip.duration_seconds * rate))


def _divided(clips: Mapping[str, Sequence[ClipRow]], sampling: Sampling) -> list[list[str]]:
    """The videos of a shard, in tar order, in runs of at most `PIECE_FRAMES` samples (or one video)."""
    runs: list[list[str]] = []
    left = 0
    for name, rows in clips.items():
        frames = sum(expected_frames(row, sampling) for row in rows)
        if not runs or frames > left:
            runs.append([])
            left = PIECE_FRAMES
        runs[-1].append(name)
        left -= frames
    return runs


def _piece(shard: str, number: int, videos: Sequence[VideoRow], clips: Mapping[str, Sequence[ClipRow]]) -> Piece:
    ordered = {
        video.video_id: tuple(sorted(clips[video.video_id], key=lambda row: row.start_seconds)) for video in videos
    }
    hashes = {
        name: f"{seed_of(*(part for row in rows for part in (row.sha256, repr(row.start_seconds)))):016x}"
        for name, rows in ordered.items()
    }
    part = f"-{number:04d}" if number else ""
    return Piece(shard, f"{_stem(shard)}{part}.safetensors", tuple(videos), ordered, hashes)


def _stem(shard: str) -> str:
    return shard.replace("clips-", "features-").removesuffix(".tar")
