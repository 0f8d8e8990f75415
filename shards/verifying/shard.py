"""One shard against the tables: its structure, and each clip's name, place, bytes and JSON member, in a single pass."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..archive import BLOCK, Archive, ArchiveError, Member
from ..index import ShardEntry, shard_number
from ..manifest import ClipRow
from .problems import Problem

_NAMED = 5
# Written into the JSON member from the same facts as the row.
_SAME_FACTS = ("video_id", "start_seconds", "duration_seconds", "num_frames", "bytes", "sha256")
_NO_FACT = object()


@dataclass
class ShardFindings:
    """What is wrong with one shard.

    Attributes:
        problems: in order of their places.
        affected: ids of videos of which something here is damaged or missing.
        num_clips, bytes: what was looked at.
    """

    problems: list[Problem] = field(default_factory=list)
    affected: set[str] = field(default_factory=set)
    num_clips: int = 0
    bytes: int = 0


def check_shard(
    folder: Path,
    name: str,
    entry: ShardEntry | None,
    rows: list[ClipRow] | None,
    *,
    quick: bool,
    advance: Callable[[int], None],
) -> ShardFindings:
    """Look at one shard and go on after each thing that is wrong; holds at most 1 MiB of a clip in memory.

    Args:
        entry: what shards.json says about it, or None when that cannot be trusted.
        rows: its rows of clips.parquet, or None when that cannot be trusted.
        quick: read headers only.
        advance: called with the number of bytes passed over since the last call; what it raises ends the check.
    """
    return _ShardCheck(folder, name, entry, rows, quick, advance).run()


class _ShardCheck:
    def __init__(
        self,
        folder: Path,
        name: str,
        entry: ShardEntry | None,
        rows: list[ClipRow] | None,
        quick: bool,
        advance: Callable[[int], None],
    ) -> None:
        self._path, self._name, self._entry, self._quick, self._advance = folder / name, name, entry, quick, advance
        self._rows = sorted(rows or [], key=lambda row: row.offset)
        self._left = {row.offset: row for row in self._rows}
        self._has_rows = rows is not None
        self._number = shard_number(name)
        self._found = ShardFindings()
        self._reported = 0
        # The clip that the walk is in: its row, its video's member and hash, and its JSON member when that was met.
        self._row: ClipRow | None = None
        self._video: Member | None = None
        self._json: Member | None = None
        self._sha256 = ""

    def run(self) -> ShardFindings:
        size = self._size()
        if size is None:
            self._found.affected.update(row.video_id for row in self._rows)
            return self._found
        self._found.bytes = size
        if self._entry is not None and size != self._entry.bytes:
            self._problem(f"has {size} bytes instead of {self._entry.bytes}")
        digest = None if self._quick else hashlib.sha256()
        try:
            with Archive(self._path, digest) as archive:
                self._walk(archive)
        except ArchiveError as error:  # the disk does not give the bytes
            self._problem(error.found, offset=error.offset)
            self._affect(self._row)
            digest = None
        self._report_missing()
        if self._entry is not None and not self._found.problems and self._found.num_clips != self._entry.num_clips:
            self._problem(f"holds {self._found.num_clips} clips; shards.json says {self._entry.num_clips}")
        if digest is not None and not self._found.problems and self._differs(size, digest.hexdigest()):
            self._found.affected.update(row.video_id for row in self._rows)  # it may be any clip's facts
            self._problem("not as written (the hash of its structure differs)")
        self._advance(max(0, size - self._reported))
        return self._found

    def _differs(self, size: int, structure_sha256: str) -> bool:
        """Whether the shard is another one of the same size; that it has another size was said before."""
        return (
            self._entry is not None and size == self._entry.bytes and structure_sha256 != self._entry.structure_sha256
        )

    def _size(self) -> int | None:
        try:
            status = os.stat(self._path)
        except OSError as error:
            self._problem(f"is missing ({error.strerror})")
            return None
        if not stat.S_ISREG(status.st_mode):
            self._problem("is no regular file")
            return None
        return status.st_size

    def _walk(self, archive: Archive) -> None:
        while True:
            try:
                for member in archive:
                    if member.extension == "json":
                        self._see_json(archive, member)
                    else:
                        self._see_video(archive, member)
                    self._report(archive.position)
                return
            except ArchiveError as error:
                if not error.readable:
                    raise
                self._problem(error.found, offset=error.offset)
                if self._json is None or error.offset < self._json.end:
                    self._affect(self._row)
                ahead = [row.offset - BLOCK for row in self._rows if row.offset - BLOCK > error.offset]
                ahead = [offset for offset in ahead if archive.position <= offset < archive.size]
                self._row = self._video = self._json = None
                if not ahead:
                    return
                archive.skip_to(ahead[0])

    def _see_video(self, archive: Archive, member: Member) -> None:
        self._found.num_clips += 1
        self._video, self._json, self._row = member, None, self._left.pop(member.offset, None)
        row = self._row
        if self._number is not None and not member.key.startswith(f"{self._number:06d}_"):
            self._clip_problem(member, "its key does not belong to this shard")
        if row is None and self._has_rows:
            self._clip_problem(member, "clips.parquet does not name it")
        elif row is not None and (row.key, row.container, row.bytes) != (member.key, member.extension, member.size):
            self._clip_problem(
                member,
                f"{member.name} of {member.size} bytes; clips.parquet places {row.key}.{row.container} of {row.bytes} "
                "bytes here",
            )
        if self._quick:
            return
        digest = hashlib.sha256()
        for chunk in archive.data(member):
            digest.update(chunk)
            self._report(archive.position)
        self._sha256 = digest.hexdigest()
        if row is not None and self._sha256 != row.sha256:
            self._clip_problem(member, "the video's bytes are not those that were written (SHA-256 differs)")

    def _see_json(self, archive: Archive, member: Member) -> None:
        self._json = member
        if self._quick or self._video is None:
            return
        text = b"".join(bytes(chunk) for chunk in archive.data(member))
        try:
            facts = json.loads(text)
        except (ValueError, RecursionError):
            facts = None
        if not isinstance(facts, dict):
            self._clip_problem(member, "its JSON member is no JSON object")
            return
        if self._row is not None:
            wanted: dict[str, Any] = {fact: getattr(self._row, fact) for fact in _SAME_FACTS}
        else:
            wanted = {"bytes": self._video.size, "sha256": self._sha256}
        different = [fact for fact, value in wanted.items() if not _same(facts.get(fact, _NO_FACT), value)]
        if different:
            self._clip_problem(member, f"its JSON member says otherwise about {', '.join(different)}")
            if self._row is None and isinstance(facts.get("video_id"), str):
                self._found.affected.add(facts["video_id"])

    def _report_missing(self) -> None:
        missing = list(self._left.values())
        if not missing:
            return
        self._found.affected.update(row.video_id for row in missing)
        named = ", ".join(f"{row.key} at byte {row.offset}" for row in missing[:_NAMED])
        more = ", ..." if len(missing) > _NAMED else ""
        self._problem(f"{len(missing)} of the clips are not where clips.parquet says: {named}{more}")

    def _report(self, position: int) -> None:
        self._advance(position - self._reported)
        self._reported = position

    def _problem(self, text: str, offset: int = -1, key: str = "", video_id: str = "") -> None:
        self._found.problems.append(Problem(self._name, text, offset, key, video_id))

    def _clip_problem(self, member: Member, text: str) -> None:
        video_id = self._row.video_id if self._row is not None else ""
        self._problem(text, member.offset, member.key, video_id)
        self._affect(self._row)

    def _affect(self, row: ClipRow | None) -> None:
        if row is not None:
            self._found.affected.add(row.video_id)


def _same(found: object, wanted: object) -> bool:
    # In JSON a whole number may stand for a float; True may not stand for 1.
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
