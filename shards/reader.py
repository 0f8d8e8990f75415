"""Reading shards: a folder is trusted as far as its ``shards.json`` goes, and that far it is checked.

Opening checks the tables' hashes and the size of every shard, so a shard that was cut or is missing is found before any
work begins; reading checks each clip's hash; `ShardSet.verify` checks everything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.errors import ReelkinError
from ..core.files import sha256_bytes
from .archive import BLOCK, parse_header
from .index import INDEX_NAME, REPAIR, TABLES, Index, read_index
from .manifest import REJECTED, ClipRow, VideoRow, from_table
from .verification import verify_shards

_NAMED = 10  # damaged shards in one message


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip as it is stored.

    Attributes:
        video_id: the video it belongs to.
        key: base name of its members in the shard.
        container: extension of the member that holds the video ("mp4", "webm", ...).
        data: the video file's bytes.
        start_seconds, duration_seconds: which part of the video it is.
        meta: the JSON member.
    """

    video_id: str
    key: str
    container: str
    data: bytes
    start_seconds: float
    duration_seconds: float
    meta: dict[str, Any]

    def __repr__(self) -> str:
        return f"Clip({self.video_id!r}, {self.key}.{self.container}, {len(self.data)} bytes)"


class ShardSet:
    """The shards of one folder. Made by `ShardSet.open`.

    Attributes:
        folder: where they are.
        info: content of shards.json.
        shard_names: file names of the shards, in order; a shard all of whose videos were rejected does not exist.
        sha256: hash of shards.json, which names the content of the whole folder.
    """

    def __init__(self, folder: Path, info: dict[str, Any], manifest: pa.Table, clips: pa.Table, sha256: str) -> None:
        self.folder = folder
        self.info = info
        self.sha256 = sha256
        self.shard_names: list[str] = [shard["name"] for shard in info["shards"]]
        self._manifest = manifest
        self._clips = clips

    def __repr__(self) -> str:
        return f"ShardSet({str(self.folder)!r}, {len(self.shard_names)} shards, {self._clips.num_rows} clips)"

    @classmethod
    def open(cls, path: str | Path) -> ShardSet:
        """Open a folder of shards.

        Raises:
            ReelkinError: the folder is unfinished, of another version, or was changed since it was built; the message
                says what to do.
        """
        folder = Path(path)
        index = read_index(folder)
        manifest, clips = (_read_table(folder / name, index.tables[name]) for name in TABLES)
        _check_sizes(folder, index)
        return cls(folder, index.info, manifest, clips, index.sha256)

    @cached_property
    def videos(self) -> list[VideoRow]:
        """A row per input video, rejected ones included, in ascending order of id."""
        return from_table(self._manifest, VideoRow)

    @cached_property
    def rejects(self) -> list[VideoRow]:
        """The rows of rejected inputs."""
        return [row for row in self.videos if row.status == REJECTED]

    @property
    def num_clips(self) -> int:
        """Clips in all shards."""
        return self._clips.num_rows

    @cached_property
    def _rows_of_shard(self) -> dict[str, tuple[int, int]]:
        """First row in the clip table and number of rows of each shard: the table is in order of shards."""
        counts = {shard["name"]: int(shard["num_clips"]) for shard in self.info["shards"]}
        ranges, first = {}, 0
        for name, count in counts.items():
            ranges[name] = (first, count)
            first += count
        return ranges

    def clips_of(self, shard_name: str) -> list[ClipRow]:
        """The clips of one shard, in the order in which they are stored.

        Raises:
            ReelkinError: there is no such shard, or the tables contradict one another.
        """
        if shard_name not in self._rows_of_shard:
            raise ReelkinError(
                f"{self.folder} has no shard {shard_name!r}; it has {len(self.shard_names)}: see shard_names"
            )
        rows = from_table(self._clips.slice(*self._rows_of_shard[shard_name]), ClipRow)
        if any(row.shard != shard_name for row in rows):
            raise ReelkinError(f"{self.folder}: clips.parquet is not in the order of shards.json; {REPAIR}")
        return rows

    def read_clips(self, shard_name: str) -> Iterator[Clip]:
        """Read the clips of one shard, in the order in which they are stored.

        Raises:
            ReelkinError: the shard's bytes are not those that were written.
        """
        rows = self.clips_of(shard_name)
        with _Archive(self.folder / shard_name, self._sizes[shard_name]) as archive:
            for row in rows:
                yield archive.read(row)

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {shard["name"]: int(shard["bytes"]) for shard in self.info["shards"]}

    @cached_property
    def _row_numbers(self) -> dict[str, list[int]]:
        numbers: dict[str, list[int]] = {}
        for number, video_id in enumerate(self._clips.column("video_id").to_pylist()):
            numbers.setdefault(video_id, []).append(number)
        return numbers

    def read_clip(self, video_id: str) -> list[Clip]:
        """Read the clips of one video, in order of time; reads nothing else of the shards.

        Raises:
            KeyError: no clip of such a video; it may have been rejected.
            ReelkinError: the shard's bytes are not those that were written.
        """
        if video_id not in self._row_numbers:
            raise KeyError(f"{video_id!r} has no clip in {self.folder}")
        clips = []
        for number in self._row_numbers[video_id]:
            (row,) = from_table(self._clips.slice(number, 1), ClipRow)
            with _Archive(self.folder / row.shard, self._sizes[row.shard]) as archive:
                clips.append(archive.read(row))
        return sorted(clips, key=lambda clip: clip.start_seconds)

    def verify(self) -> None:
        """Check everything: reads all bytes. `verification.verify_shards` gives the findings one by one.

        Raises:
            ReelkinError: says what is not as it was written, which videos that concerns, and what to do.
        """
        verify_shards(self.folder).raise_if_damaged()


def _read_table(path: Path, sha256: str) -> pa.Table:
    """What is parsed is what was hashed: a damaged parquet file never reaches the parser."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise ReelkinError(f"cannot read {path}: {error.strerror or error}") from error
    if sha256_bytes(data) != sha256:
        raise ReelkinError(f"{path} is missing or not the table that {INDEX_NAME} names; {REPAIR}")
    try:
        return pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as error:
        raise ReelkinError(f"cannot read the table {path}: {error}; {REPAIR}") from error


def _check_sizes(folder: Path, index: Index) -> None:
    """One look at each shard, which is quick for thousands of them; all that is wrong is said at once."""
    wrong = []
    for shard in index.shards:
        try:
            size = os.stat(folder / shard.name).st_size
        except OSError as error:
            wrong.append(f"{shard.name} is missing ({error.strerror})")
        else:
            if size != shard.bytes:
                wrong.append(f"{shard.name} has {size} bytes instead of {shard.bytes}")
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ReelkinError(f"{folder}: {'; '.join(wrong[:_NAMED])}{more}; {REPAIR}")


class _Archive:
    """Reads members at known offsets; the tar header before each confirms that the offset is right."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def __enter__(self) -> _Archive:
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY)
        except OSError as error:
            raise ReelkinError(f"cannot read {self._path}: {error.strerror}") from error
        found = os.fstat(self._descriptor).st_size
        if found != self._size:  # it was whole when the set was opened
            os.close(self._descriptor)
            raise ReelkinError(f"{self._path} has {found} bytes instead of {self._size}; {REPAIR}")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def read(self, row: ClipRow) -> Clip:
        """Read a clip and its JSON member."""
        name = f"{row.key}.{row.container}"
        if self._member(row.offset, name) != row.bytes:
            raise self._damaged(row)
        data = self._bytes(row.offset, row.bytes)
        after = row.offset + row.bytes + -row.bytes % BLOCK + BLOCK
        text = self._bytes(after, self._member(after, f"{row.key}.json"))
        if sha256_bytes(data) != row.sha256:
            raise self._damaged(row)
        try:
            meta = json.loads(text)
        except ValueError:
            raise self._damaged(row) from None
        return Clip(row.video_id, row.key, row.container, data, row.start_seconds, row.duration_seconds, meta)

    def _member(self, offset: int, name: str) -> int:
        """Size of the member whose data begins at ``offset``, or -1 when it is not the one named."""
        try:
            member = parse_header(self._bytes(offset - BLOCK, BLOCK), offset - BLOCK)
        except ValueError:
            return -1
        return member.size if member.name == name else -1

    def _bytes(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            return b""
        parts = []
        while length:  # one call reads at most 2 GiB
            part = os.pread(self._descriptor, min(length, 1 << 30), offset)
            if not part:
                break
            parts.append(part)
            offset, length = offset + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _damaged(self, row: ClipRow) -> ReelkinError:
        return ReelkinError(
            f"{self._path}: clip {row.key} ({row.video_id!r}) is not as it was written; the disk or a copy damaged the "
            f"shard. Remove the shard and {REPAIR}"
        )
