"""What one rank does of an extraction: pieces are claimed as the decoder asks for clips, and become blocks.

A block is published before its record.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.engine import Engine
from ...core.errors import DataError, ReelkinError
from ...core.progress import Progress
from ...shards.manifest import OK
from ..decoding.tasks import Source
from ..describe import Described, Describer, join_clips
from ..storage.blocks import map_block
from ..store import StoreRow, write_block
from .claims import Account, Claims, total
from .job import Job
from .records import Record, read_record, record_path
from .work import Piece

log = logging.getLogger("reelkin.extract")


@dataclass(eq=False)
class _Making:
    """A piece in the making.

    Attributes:
        kept: rows, features and times of the videos that are done; at first those that an earlier block had.
        waiting: clips of each other video that are not described yet.
        found: what was described of these videos.
    """

    piece: Piece
    kept: dict[str, tuple[StoreRow, np.ndarray, np.ndarray]]
    waiting: dict[str, int]
    found: dict[str, Described] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.videos = {video.video_id: video for video in self.piece.videos}
        self._home = {row.key: name for name, rows in self.piece.clips.items() for row in rows}

    def take(self, described: Described) -> str | None:
        """A further clip; the id of its video when that is complete."""
        self.found[described.source.key] = described
        video_id = self._home[described.source.key]
        self.waiting[video_id] -= 1
        if self.waiting[video_id]:
            return None
        del self.waiting[video_id]
        return video_id


class Share:
    """What one rank does: pieces are claimed as the decoder asks for clips, and written as they become complete."""

    def __init__(
        self, job: Job, settings: Mapping[str, Any], describer: Describer, engine: Engine, claims: Claims
    ) -> None:
        self._job, self._settings, self._describer, self._claims = job, settings, describer, claims
        self._engine = engine
        self._making: dict[int, _Making] = {}
        self._begun: deque[_Making] = deque()  # by the decoder's thread, and not seen by this one
        self._frames = 0

    def work(self, todo: Sequence[Piece]) -> None:
        """Do pieces until all are taken."""
        label = "extracting" if self._engine.size == 1 else f"extracting ({self._engine.size} ranks)"
        videos, size = sum(len(piece.videos) for piece in todo), sum(piece.bytes for piece in todo)
        with Progress(videos, "videos", label, self._engine.is_main, size, more=self._news) as progress:
            for described in self._describer.describe(self._sources(), half=True):
                self._begin(progress)
                making = self._making[described.source.group]
                video_id = making.take(described)
                if video_id is not None:
                    self._count(progress, making, video_id)
                if not making.waiting:
                    self._write(self._making.pop(described.source.group))
            self._begin(progress)
            self._engine.barrier("pieces")  # the last line counts what all ranks did
            progress.hear()
            progress.advance(0, note=self._note(progress))

    def _sources(self) -> Iterator[Source]:
        """Clips to decode, of one claimed piece after the other. Runs in the decoder's thread."""
        for group, piece in enumerate(self._claims.take()):
            kept = {} if self._job.rebuild else self._kept(piece)
            waiting = {name: len(rows) for name, rows in piece.clips.items() if name not in kept}
            missing = frozenset(waiting)
            making = _Making(piece, kept, waiting)
            if missing:
                self._making[group] = making
            self._begun.append(making)
            for video_id, source in piece.sources(self._job.shards.folder, group):
                if video_id in missing:
                    yield source

    def _kept(self, piece: Piece) -> dict[str, tuple[StoreRow, np.ndarray, np.ndarray]]:
        """Wanted videos that an earlier block of the same shard holds, made with the same settings."""
        found: dict[str, tuple[StoreRow, np.ndarray, np.ndarray]] = {}
        for path in sorted(self._job.output.glob(f"{piece.stem}*.safetensors")):
            record = read_record(self._job.output, path.name)
            if record is None or record.settings != self._settings:
                continue
            block = map_block(path, self._describer.dim)
            if read_record(self._job.output, path.name) != record:
                continue  # another rank has just written it anew, so that the rows may not be those of the block
            for row in record.rows:
                wanted = piece.wanted.get(row.video_id)
                if wanted is None or record.made_from.get(row.video_id) != wanted or row.reason in self._job.retry:
                    continue
                if row.status == OK:
                    features, times = block.videos([row.row])
                    found[row.video_id] = row, features[0], times[0]
                else:
                    found[row.video_id] = row, np.zeros((0, self._describer.dim), np.float16), np.zeros(0)
        return found

    def _count(self, progress: Progress, making: _Making, video_id: str) -> None:
        """Put a video's clips together: from now on it has features, or a reason why not."""
        video, clips = making.videos[video_id], making.piece.clips[video_id]
        parts = [making.found.pop(clip.key) for clip in clips]
        row = StoreRow(video_id, duration_seconds=video.duration_seconds, decoder=_decoders(parts))
        try:
            features, times = join_clips(parts, [clip.start_seconds for clip in clips])
        except DataError as error:
            log.warning("%s is rejected: %s", video_id, error)
            row = StoreRow.rejected(video_id, error.reason, str(error), video.duration_seconds)
            features, times = np.zeros((0, self._describer.dim), np.float16), np.zeros(0)
        making.kept[video_id] = row, features, times
        self._frames += len(features)
        progress.advance(bytes=sum(clip.bytes for clip in clips), reason=row.reason, note=self._note(progress))

    def _note(self, progress: Progress) -> str:
        seconds = max(1e-9, progress.seconds)
        waited = self._describer.pool.waited / seconds
        return f"{self._frames} frames, {self._frames / seconds:.3g} frames/s, {waited:.0%} waiting for decoding"

    def _begin(self, progress: Progress) -> None:
        """Count what pieces that were begun have from earlier blocks; write those of which nothing is left to do."""
        while self._begun:
            making = self._begun.popleft()
            kept = [clip.bytes for name in making.kept for clip in making.piece.clips[name]]
            progress.skip(len(making.kept), sum(kept))
            if not making.waiting:
                self._write(making)

    def _write(self, making: _Making) -> None:
        """Publish a block and its record."""
        piece, output = making.piece, self._job.output
        rows: list[StoreRow] = []
        features: list[np.ndarray] = []
        times: list[np.ndarray] = []
        for video in piece.videos:
            row, matrix, seconds = making.kept[video.video_id]
            if row.status == OK:
                row = replace(row, block=piece.block, row=len(features), num_frames=len(matrix))
                features.append(matrix)
                times.append(seconds)
            rows.append(row)
        # A record must never stand beside a block that it does not speak of.
        unlink(record_path(output, piece.block))
        block = write_block(output / piece.block, features, times, self._describer.dim)
        Record(self._settings, piece.wanted, block, rows).publish(output)
        reasons = Counter(row.reason for row in rows if row.reason)
        self._claims.done(piece, Account(len(rows), piece.bytes, block.num_frames, dict(reasons)))

    def _news(self) -> tuple[int, int, Counter[str]]:
        """What other ranks have done since the last call."""
        news = total(self._claims.news())
        self._frames += news.frames
        return news.videos, news.bytes, Counter(news.reasons)


def _decoders(parts: Sequence[Described]) -> str:
    return "+".join(sorted({part.decoder for part in parts if part.decoder}))


def unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ReelkinError(
            f"cannot remove {path}: {error.strerror or error}; check the permissions, then run the same command again"
        ) from error
