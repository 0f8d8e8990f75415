"""Writing one shard: each input is looked at in a child process, copied, and accounted for."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import DataError, Reason
from ...core.files import sha256_file
from ...core.progress import Progress
from ..manifest import OK, REJECTED, ClipRow, VideoRow
from ..sources.folders import changed_ns, measure_images
from ..sources.inputs import Kind, VideoInput
from ..video.isolation import ProbePool, Request
from ..writer import MEMBER_LIMIT_BYTES, ShardWriter, writing_shard
from .config import BuildConfig
from .plan import Group
from .records import Record, record_path, write_record

logger = logging.getLogger(__name__)

_NAMED_REJECTS = 20  # per process; the manifest names them all


class Stopped(Exception):
    """Another thread of this process failed; its error is the one to report."""


@dataclass
class ShardBuilder:
    """Builds shards of one output folder; each of several threads may build one at a time.

    Attributes:
        config: the settings.
        pool: looks at the inputs.
        ahead: inputs that a thread asks for before it needs them.
        removed: ids that were taken out and stay out.
        later: ids that a later round took up.
        scratch: folder for clip files on their way into a shard.
        progress: told of every input.
        stop: set when the threads should end.
    """

    config: BuildConfig
    pool: ProbePool
    ahead: int
    removed: frozenset[str]
    later: frozenset[str]
    scratch: Path
    progress: Progress
    stop: threading.Event = field(default_factory=threading.Event)

    def build(self, group: Group) -> None:
        """Write a shard and its record.

        Raises:
            ReelkinError: the disk is full, or children cannot be started.
            Stopped: ``stop`` was set.
        """
        output = self.config.output
        videos: list[VideoRow] = []
        clips: list[ClipRow] = []
        record_path(output, group.number).unlink(missing_ok=True)
        (output / group.shard_name).unlink(missing_ok=True)
        inputs = [(n, entry, self._known(entry)) for n, entry in enumerate(group.inputs)]
        answers = self.pool.prepare(
            (self._request(group, n, entry) for n, entry, known in inputs if not known), self.ahead
        )
        with writing_shard(output / group.shard_name) as writer:
            for n, entry, known in inputs:
                if self.stop.is_set():
                    raise Stopped
                row, added = self._pack(writer, group, n, entry, known or next(answers))
                if self.stop.is_set():  # then children are being killed, and answers say so of innocent files
                    raise Stopped
                videos.append(row)
                clips += added
                self._tell(row, entry)
        shard = asdict(writer.entry(group.shard_name)) if clips else None
        write_record(output, group.number, Record.of(group.sha256, shard, videos, clips))

    def _known(self, entry: VideoInput) -> DataError | None:
        """Why an input is rejected without a look at it."""
        if entry.video_id in self.removed:
            return DataError(Reason.REMOVED, "taken out on request")
        if entry.video_id in self.later:  # the row that counts is there
            return DataError(Reason.DUPLICATE_ID, "taken up again with --retry; what came of it is in a later shard")
        if entry.reason is not None:
            return DataError(entry.reason, entry.detail)
        if entry.bytes >= MEMBER_LIMIT_BYTES and self.config.clip_seconds is None and entry.kind is not Kind.ARRAY:
            text = (
                f"{entry.bytes} bytes; a shard's member must be under {MEMBER_LIMIT_BYTES}: cut it with --clip-seconds"
            )
            return DataError(Reason.TOO_LARGE, text)
        return None

    def _request(self, group: Group, n: int, entry: VideoInput) -> Request:
        config = self.config
        return Request(
            entry.path,
            entry.bytes,
            entry.kind.value,
            config.clip_seconds,
            config.frame_rate,
            config.frame_names,
            str(self.scratch / f"{group.number}-{n}"),
        )

    def _pack(
        self, writer: ShardWriter, group: Group, n: int, entry: VideoInput, answer: dict[str, Any] | DataError
    ) -> tuple[VideoRow, list[ClipRow]]:
        try:
            if isinstance(answer, DataError):
                raise answer
            with writer.all_or_none():
                clips = self._add(writer, group, n, entry, answer)
                return self._accepted(entry, answer["facts"], clips), clips
        except DataError as error:
            return _rejected(entry, error), []
        finally:
            shutil.rmtree(self.scratch / f"{group.number}-{n}", ignore_errors=True)

    def _add(
        self, writer: ShardWriter, group: Group, n: int, entry: VideoInput, answer: dict[str, Any]
    ) -> list[ClipRow]:
        key, facts = f"{group.number:06d}_{n:06d}", answer["facts"]
        if answer["clips"] is None:
            whole = {**facts, "path": entry.path, "start_seconds": 0.0}
            clip = self._add_clip(writer, group, entry, key, whole, facts)
            _check_unchanged(entry)
            return [clip]
        parts: list[dict[str, Any]] = answer["clips"]
        keys = [key] if len(parts) == 1 else [f"{key}_{number:04d}" for number in range(len(parts))]
        clips = [self._add_clip(writer, group, entry, *pair, facts) for pair in zip(keys, parts, strict=True)]
        if entry.kind is not Kind.FILE:
            _check_unchanged(entry)
        return clips

    @staticmethod
    def _add_clip(
        writer: ShardWriter, group: Group, entry: VideoInput, key: str, part: dict[str, Any], facts: dict[str, Any]
    ) -> ClipRow:
        own = {name: part[name] for name in ("container", "start_seconds", "num_frames", "duration_seconds")}
        content = {"video_id": entry.video_id, "path": entry.name, **facts, **own}
        member = writer.add(key, part["container"], Path(part["path"]), content)
        return ClipRow(
            video_id=entry.video_id,
            shard=group.shard_name,
            key=key,
            bytes=member.bytes,
            sha256=member.sha256,
            offset=member.offset,
            **own,
        )

    @staticmethod
    def _accepted(entry: VideoInput, facts: dict[str, Any], clips: list[ClipRow]) -> VideoRow:
        kept = {name: value for name, value in facts.items() if name != "container"}
        size, digest = clips[0].bytes, clips[0].sha256
        if len(clips) > 1 and entry.kind is Kind.FILE:
            size, digest = entry.bytes, _hash_of(entry)
            _check_unchanged(entry)
        elif len(clips) > 1:
            size, digest = sum(clip.bytes for clip in clips), ""
        return VideoRow(entry.video_id, OK, path=entry.name, num_clips=len(clips), bytes=size, sha256=digest, **kept)

    def _tell(self, row: VideoRow, entry: VideoInput) -> None:
        self.progress.advance(bytes=max(0, entry.bytes), reason=row.reason)
        if row.status == REJECTED and self.progress.rejects <= _NAMED_REJECTS:
            logger.info("rejected %s: %s (%s)", row.video_id, row.reason, row.detail)


def _hash_of(entry: VideoInput) -> str:
    try:
        return sha256_file(entry.path)
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None


def _check_unchanged(entry: VideoInput) -> None:
    """Raise DataError when an input is not what was listed: the plan's hashes would say something else."""
    try:
        if entry.kind is Kind.FRAMES:
            found = measure_images(entry.path)
        else:
            status = os.stat(entry.path)
            found = status.st_size, changed_ns(status)
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
    if found != (entry.bytes, entry.modified_ns):
        raise DataError(Reason.UNREADABLE, "it changed while it was packed; take it up again with --retry")


def _rejected(entry: VideoInput, error: DataError) -> VideoRow:
    return VideoRow(
        entry.video_id, REJECTED, error.reason.value, str(error), path=entry.name, bytes=max(0, entry.bytes)
    )


def run_in_threads(builder: ShardBuilder, groups: Iterator[Group], threads: int) -> None:
    """Build all groups, ``threads`` at a time; the first failure ends the others and is raised."""
    lock, failures = threading.Lock(), []

    def work() -> None:
        try:
            while not builder.stop.is_set():
                with lock:
                    group = next(groups, None)
                if group is None:
                    return
                builder.build(group)
        except Stopped:
            return
        except BaseException as error:
            failures.append(error)
            builder.stop.set()

    workers = [threading.Thread(target=work, name=f"shard-{n}", daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        for worker in workers:
            worker.join()
    except BaseException:  # a request to stop: nothing half-written stays, which takes the threads' help
        builder.stop.set()
        raise
    if failures:
        raise failures[0]
