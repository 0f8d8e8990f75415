"""One shard: a USTAR archive whose bytes depend on its content alone, published whole.

USTAR, because every reader of tar shards knows it, DALI's included; it bounds a member at 8 GiB. No times, owners or
file names of the source enter the archive: the same videos give the same bytes on any machine.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..core.errors import DataError, Reason
from ..core.files import publishing
from .archive import BLOCK, EXTENSION, KEY, MEMBER_LIMIT_BYTES, RECORD, member_header
from .index import ShardEntry
from .video.container import open_bytes

_COPY_BYTES = 1 << 20
_WRITE_BACK_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class WrittenMember:
    """Where a clip's bytes are in the archive: offset of the data, its size, its SHA-256."""

    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a file: where a clip lies in another shard."""

    path: Path
    offset: int
    size: int

    def open(self) -> IO[bytes]:
        """The file, positioned at the part's begin. Raises OSError."""
        file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - handed to the caller
        file.seek(self.offset)
        return file


class _HashingFile:
    """Counts what is written, and hashes all but the videos, which have hashes of their own; can go back to an earlier
    state, which is how half a member is taken out."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.position = self._on_its_way = 0
        self.hash = hashlib.sha256()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.hash.update(data)
        self.position += len(data)

    def write_video(self, data: memoryview) -> None:
        self._file.write(data)
        self.position += len(data)
        if self.position - self._on_its_way >= _WRITE_BACK_BYTES:
            # Begins to write to the disk what the page cache holds, so that there is little to wait for at the end.
            self._file.flush()
            length = self.position - self._on_its_way
            os.posix_fadvise(self._file.fileno(), self._on_its_way, length, os.POSIX_FADV_DONTNEED)
            self._on_its_way = self.position

    def state(self) -> tuple[int, Any]:
        return self.position, self.hash.copy()

    def go_back(self, state: tuple[int, Any]) -> None:
        self.position, self.hash = state[0], state[1].copy()
        self._file.flush()
        self._file.seek(self.position)
        self._file.truncate()


class ShardWriter:
    """Adds clips to one archive. Made by `writing_shard`.

    Attributes:
        num_clips: clips added so far.
        bytes, structure_sha256: size of the archive, and hash of all but the videos (see `archive.structure_sha256`);
            valid after the ``with`` statement.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._out = _HashingFile(file)
        self._keys: dict[str, None] = {}  # in order, so that the last can be taken out
        self._buffer = memoryview(bytearray(_COPY_BYTES))
        self.num_clips = 0
        self.bytes = 0
        self.structure_sha256 = ""

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """What a body adds that ends with a DataError is taken out again."""
        before, num_clips = self._out.state(), self.num_clips
        try:
            yield
        except DataError:
            self._out.go_back(before)
            while len(self._keys) > num_clips:
                self._keys.popitem()
            self.num_clips = num_clips
            raise

    def add(self, key: str, container: str, source: Path | bytes | Section, facts: dict[str, Any]) -> WrittenMember:
        """Add a video as ``KEY.container`` and ``KEY.json``.

        Args:
            key: base name of both members, 1 to 80 of ``[0-9a-z_]``, new in this shard.
            container: extension of the video's member.
            source: the video, copied as it is.
            facts: content of the JSON member; ``bytes`` and ``sha256`` of the video are added.

        Raises:
            DataError: TOO_LARGE, or the source cannot be read; the archive is then as before.
            ValueError: a key or extension that readers would not understand, or a key used twice.
        """
        if not KEY.fullmatch(key) or key in self._keys:
            raise ValueError(f"key {key!r}: use 1 to 80 of [0-9a-z_], each key once in a shard")
        if not EXTENSION.fullmatch(container) or container == "json":
            raise ValueError(f"container {container!r}: use 1 to 10 of [0-9a-z], not json")
        file, size = (source.open(), source.size) if isinstance(source, Section) else open_bytes(source)
        with file, self.all_or_none():
            if size >= MEMBER_LIMIT_BYTES:
                raise DataError(Reason.TOO_LARGE, f"{size} bytes; a shard's member must be under {MEMBER_LIMIT_BYTES}")
            member = self._copy(f"{key}.{container}", file, size)
        text = json.dumps({**facts, "bytes": member.bytes, "sha256": member.sha256}, ensure_ascii=True, allow_nan=False)
        self._member(f"{key}.json", text.encode("ascii"))
        self._keys[key] = None
        self.num_clips += 1
        return member

    def _copy(self, name: str, file: IO[bytes], size: int) -> WrittenMember:
        self._header(name, size)
        offset, digest, left = self._out.position, hashlib.sha256(), size
        while left:
            part = self._buffer[: min(_COPY_BYTES, left)]
            try:
                got = file.readinto(part)  # type: ignore[attr-defined]
            except OSError as error:
                raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
            if not got:
                raise DataError(
                    Reason.UNREADABLE, f"the file shrank while it was copied ({left} of {size} bytes missing)"
                )
            self._out.write_video(part[:got])
            digest.update(part[:got])
            left -= got
        self._pad(size)
        return WrittenMember(offset, size, digest.hexdigest())

    def _header(self, name: str, size: int) -> None:
        self._out.write(member_header(name, size))

    def _pad(self, size: int) -> None:
        self._out.write(bytes(-size % BLOCK))

    def _member(self, name: str, data: bytes) -> None:
        self._header(name, len(data))
        self._out.write(data)
        self._pad(len(data))

    def entry(self, name: str) -> ShardEntry:
        """What shards.json says of the finished archive."""
        return ShardEntry(name, self.bytes, self.structure_sha256, self.num_clips)

    def finish(self) -> None:
        """Write the end of the archive."""
        self._out.write(bytes(2 * BLOCK))
        self._out.write(bytes(-self._out.position % RECORD))
        self.bytes, self.structure_sha256 = self._out.position, self._out.hash.hexdigest()


@contextmanager
def writing_shard(path: Path) -> Iterator[ShardWriter]:
    """Yield a `ShardWriter`; the archive stands under ``path`` when the body ends without an error.

    A body that adds no clip publishes nothing; one that wants to know the hash before calls `ShardWriter.finish`.

    Raises:
        ReelkinError: the disk is full or the folder cannot be written.
    """
    try:
        with publishing(path) as temporary, open(temporary, "wb") as file:
            writer = ShardWriter(file)
            yield writer
            if not writer.num_clips:
                raise _NothingWritten
            if not writer.structure_sha256:
                writer.finish()
    except _NothingWritten:
        pass


class _NothingWritten(Exception):
    pass
