"""The tar structure of one shard, read strictly: what the shard writer writes and nothing else.

A tar can name files outside the folder, link to others, hide a member behind another, or say that it holds more than it
does; readers differ in what they make of that. Here a header is accepted only when its 512 bytes are those that
`member_header` gives for its name and size, so none of this can pass. Nothing is ever extracted, and no position beyond
the end of the file is looked at.

Layout: USTAR of POSIX.1-1988 (IEEE Std 1003.1, "ustar Interchange Format"): headers and data in blocks of 512 bytes,
two blocks of zeros at the end, the whole padded with zeros to a record of 10,240 bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..core.errors import ReelkinError

BLOCK, RECORD = tarfile.BLOCKSIZE, tarfile.RECORDSIZE
MEMBER_LIMIT_BYTES = 1 << 33
"""A USTAR member must be smaller."""
KEY = re.compile(r"[0-9a-z_]{1,80}")
EXTENSION = re.compile(r"[0-9a-z]{1,10}")
JSON_LIMIT_BYTES = 16 << 20
"""A JSON member must be no larger, so that it can be read into memory."""

_NAME = re.compile(rf"({KEY.pattern})\.({EXTENSION.pattern})")
_SIZE = re.compile(rb"[0-7]{11}\0")
_CHUNK_BYTES = 1 << 20
_TYPES = {
    tarfile.AREGTYPE: "a file of the old kind of tar",
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a character device",
    tarfile.BLKTYPE: "a block device",
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a named pipe",
    tarfile.CONTTYPE: "a contiguous file",
    tarfile.XHDTYPE: "a PAX header",
    tarfile.XGLTYPE: "a global PAX header",
    tarfile.SOLARIS_XHDTYPE: "a PAX header of Solaris",
    tarfile.GNUTYPE_LONGNAME: "a long name of GNU tar",
    tarfile.GNUTYPE_LONGLINK: "a long link of GNU tar",
    tarfile.GNUTYPE_SPARSE: "a sparse file of GNU tar",
}


class ArchiveError(ReelkinError):
    """A shard is no archive as the writer makes them.

    Attributes:
        path: the shard.
        offset: byte of the file at which it is wrong.
        found: what is there.
        readable: False when the disk does not give the bytes, so that there is no going on.
    """

    def __init__(self, path: Path, offset: int, found: str, readable: bool = True) -> None:
        super().__init__(f"{path}: at byte {offset}: {found}; this is not as shards are written")
        self.path, self.offset, self.found, self.readable = path, offset, found, readable


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a shard.

    Attributes:
        name: ``KEY.EXTENSION``.
        key, extension: its parts.
        offset: byte of the archive at which its data begins; its header stands in the 512 bytes before.
        size: bytes of its data.
    """

    name: str
    key: str
    extension: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Byte behind the padding of its data."""
        return self.offset + self.size + -self.size % BLOCK


def _header_of_nothing() -> bytes:
    info = tarfile.TarInfo()
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


# All that is the same in every header; tarfile takes ten times as long to put one together, for two a clip.
_NOTHING = _header_of_nothing()
_BARE_SUM = sum(_NOTHING[:148]) + sum(b" " * 8) + sum(_NOTHING[156:]) - sum(_NOTHING[124:136])


def member_header(name: str, size: int) -> bytes:
    """The header of a member: a regular file of mode 644 without time, owner or anything else; 512 bytes.

    Args:
        name: up to 100 ASCII characters.
        size: bytes, below 8 GiB.
    """
    called, length = name.encode("ascii"), b"%011o\0" % size
    if len(called) > 100 or len(length) > 12:
        raise ValueError(f"{name!r} of {size} bytes does not fit into a USTAR header")
    checksum = b"%06o\0 " % (_BARE_SUM + sum(called) + sum(length))
    return called.ljust(100, b"\0") + _NOTHING[100:124] + length + _NOTHING[136:148] + checksum + _NOTHING[156:]


def parse_header(block: bytes, offset: int) -> Member:
    """The member whose header is ``block``, which stands at byte ``offset`` of its archive.

    Raises:
        ValueError: the block is not what `member_header` gives; the message says what was found.
    """
    name, size = block[:100].rstrip(b"\0").decode("ascii", "backslashreplace"), block[124:136]
    match = _NAME.fullmatch(name)
    if match and _SIZE.fullmatch(size) and member_header(name, int(size[:11], 8)) == block:
        return Member(name, match[1], match[2], offset + BLOCK, int(size[:11], 8))
    raise ValueError(_what_is_wrong(block))


def _what_is_wrong(block: bytes) -> str:
    if len(block) < BLOCK:
        return f"the file ends after {len(block)} bytes of a header"
    try:
        info = tarfile.TarInfo.frombuf(block, "ascii", "backslashreplace")
    except tarfile.HeaderError as error:
        return f"no header of a member ({error})"
    called = f"a member called {info.name[:120]!r}"
    if block[156:157] != tarfile.REGTYPE:
        return f"{called} that is {_TYPES.get(info.type, f'of the unknown type {info.type!r}')}"
    if info.size < 0:
        return f"{called} with the negative size {info.size}"
    if block[124] & 0x80:
        return f"{called} with a size in base 256 ({info.size})"
    if info.name.startswith("/"):
        return f"{called}, an absolute name"
    if ".." in info.name.split("/"):
        return f"{called}, a name that leads out of its folder"
    if not _NAME.fullmatch(info.name):
        return f"{called}, which is no KEY.EXTENSION of small letters, digits and _"
    fields: dict[str, int | float | str] = {"mode": info.mode, "uid": info.uid, "gid": info.gid, "mtime": info.mtime}
    fields |= {"uname": info.uname, "gname": info.gname, "link": info.linkname}
    usual = {"mode": 0o644, "uid": 0, "gid": 0, "mtime": 0, "uname": "", "gname": "", "link": ""}
    strange = [f"{field} {value!r}" for field, value in fields.items() if value != usual[field]]
    return f"{called} with {', '.join(strange) or 'a header that is written in another way'}"


class Archive:
    """Walks through a shard once, from its first byte to its last; a context manager.

    Iterating yields the `Member`s in their order; between two steps, `data` gives the bytes of the latest. After an
    `ArchiveError` the walk can go on at a known header: `skip_to`, then iterate again.

    Args:
        path: the shard, a regular file.
        digest: a hash object that is fed every byte of the file in order, but for those of videos.

    The data of members that nobody asks for is not read, unless the hash needs it.

    Attributes:
        size: of the file, bytes.
        position: byte up to which the file has been looked at.

    Raises:
        ArchiveError: from all methods, for whatever is not as it was written, and for a file that cannot be read.
    """

    def __init__(self, path: Path, digest: Any = None) -> None:
        self._path, self._digest = path, digest
        self._keys: set[str] = set()
        self._last: Member | None = None
        self._pending: Member | None = None
        self._buffer = memoryview(bytearray(_CHUNK_BYTES))
        self.position = self.size = 0

    def __enter__(self) -> Self:
        try:
            # Without O_NONBLOCK, a named pipe put in the place of a shard would be waited for.
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise ArchiveError(self._path, 0, f"cannot be read ({error.strerror})", readable=False) from error
        self.size = os.fstat(self._descriptor).st_size
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._finish_member()
            at = self.position
            block = bytes(self._take(min(BLOCK, self.size - at)))
            if not block.strip(b"\0"):
                self._check_end(at)
                return
            try:
                member = parse_header(block, at)
            except ValueError as error:
                raise self._wrong(at, str(error)) from None
            self._check_place(member)
            self._last = self._pending = member
            yield member

    def _check_place(self, member: Member) -> None:
        at, last = member.offset - BLOCK, self._last
        if member.end > self.size:
            raise self._wrong(at, f"{member.name} of {member.size} bytes, more than the file holds")
        awaits_json = last is not None and last.extension != "json"
        if member.extension == "json":
            if not awaits_json or last is None or last.key != member.key:
                raise self._wrong(at, f"{member.name} where no video of this key stands before it")
            if member.size > JSON_LIMIT_BYTES:
                raise self._wrong(at, f"{member.name} of {member.size} bytes")
            return
        if awaits_json and last is not None:
            raise self._wrong(at, f"{member.name} where {last.key}.json must stand")
        if member.key in self._keys:
            raise self._wrong(at, f"{member.name}, a key that stood before")
        self._keys.add(member.key)

    def _check_end(self, at: int) -> None:
        last = self._last
        if last is None:
            raise self._wrong(at, "the end of the archive before the first member")
        if last.extension != "json":
            raise self._wrong(at, f"the end of the archive where {last.key}.json must stand")
        end = -(-(at + 2 * BLOCK) // RECORD) * RECORD
        if self.size != end:
            kind = "the file is cut" if self.size < end else f"{self.size - end} bytes stand behind the archive"
            raise self._wrong(min(end, self.size), f"{kind} (it should have {end} bytes, and has {self.size})")
        begin, rest = self.position, bytes(self._take(end - self.position)).lstrip(b"\0")
        if rest:
            raise self._wrong(max(begin, end - len(rest)), "bytes that are not zero behind the last member")

    def data(self, member: Member) -> Iterator[memoryview]:
        """The bytes of the latest member in chunks of at most 1 MiB, each valid until the next is asked for."""
        while self.position < member.offset + member.size:
            yield self._take(min(_CHUNK_BYTES, member.offset + member.size - self.position), _counts(member))

    def skip_to(self, offset: int) -> None:
        """Go on at byte ``offset``, where a video's header should stand; not before `position`."""
        self.position = max(self.position, min(offset, self.size))
        self._last = self._pending = None

    def _finish_member(self) -> None:
        member, self._pending = self._pending, None
        if member is None:
            return
        self._pass_over(member)
        if bytes(self._take(member.end - self.position)).strip(b"\0"):
            raise self._wrong(member.offset + member.size, f"padding of {member.name} that is not zero")

    def _pass_over(self, member: Member) -> None:
        if self._digest is None or not _counts(member):
            self.position = max(self.position, member.offset + member.size)
        for _ in self.data(member):
            pass

    def _take(self, length: int, hashed: bool = True) -> memoryview:
        """The next ``length`` bytes, at most 1 MiB, in the one buffer of this object."""
        done = 0
        while done < length:
            try:
                count = os.preadv(self._descriptor, [self._buffer[done:length]], self.position)
            except OSError as error:
                why = f"cannot be read ({error.strerror})"
                raise ArchiveError(self._path, self.position, why, readable=False) from error
            if not count:
                raise ArchiveError(self._path, self.position, "the file has become shorter", readable=False)
            if self._digest is not None and hashed:
                self._digest.update(self._buffer[done : done + count])
            done += count
            self.position += count
        return self._buffer[:length]

    def _wrong(self, offset: int, found: str) -> ArchiveError:
        return ArchiveError(self._path, offset, found)


def _counts(member: Member) -> bool:
    """Whether a member's data goes into the hash of the structure: JSON members do, and hold the hashes of videos."""
    return member.extension == "json"


def structure_sha256(path: Path) -> str:
    """SHA-256 of all bytes of a shard but those of the videos.

    The JSON members are in it, with the hash of each video: so it names the content of the whole shard, and every byte
    is hashed once when a shard is written or verified.

    Raises:
        ArchiveError: the shard is not as the writer makes them.
    """
    digest = hashlib.sha256()
    with Archive(path, digest) as archive:
        for _ in archive:
            pass
    return digest.hexdigest()


def read_members(path: Path) -> list[Member]:
    """All members of a shard, after a look at the whole structure; data is not read.

    Raises:
        ArchiveError: the shard is not as the writer makes them.
    """
    with Archive(path) as archive:
        return list(archive)
