"""Does a file hold as many bytes as its own container structure says? Read without a demuxer, from the outermost sizes.

A demuxer reaches the end of a file that was cut off and reports a shorter video, without an error. The outermost
elements of MP4, Matroska, AVI and ASF carry their length; GIF, FLV, IVF and Ogg are chains of blocks that do. So a
missing tail shows. Sources: ISO/IEC 14496-12 section 4.2 (boxes), RFC 8794 (EBML), RFC 3533 (Ogg), the RIFF, ASF,
GIF89a and FLV specifications.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class Readable(Protocol):
    """What is needed of an open file."""

    def read(self, size: int = ..., /) -> bytes: ...
    def seek(self, offset: int, whence: int = ..., /) -> int: ...


_BOX_TYPES = {b"ftyp", b"moov", b"mdat", b"styp", b"wide", b"free", b"skip", b"moof", b"sidx", b"uuid", b"pnot"}
_MAX_BOXES = 1_000_000
_MAX_TAGS = 5_000_000
_MAX_GIF_BYTES = 1 << 28
_FLV_TAGS, _FLV_VIDEO = (8, 9, 18), 9  # sound, video, script
_FLV_PICTURELESS = 5  # a tag's own header: the end of a sequence
_OGG_FIRST, _OGG_VIDEO = 2, (b"\x80theora", b"OVP80", b"BBCD", b"\x01video")
_EBML = b"\x1aE\xdf\xa3"
_SEGMENT = b"\x18\x53\x80\x67"
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


def broken_off(file: Readable, size: int) -> str:
    """Say what is missing at the end of a file.

    Args:
        file: open for reading, seekable; its position is changed.
        size: the file's size in bytes.

    Returns:
        A sentence, or "" when nothing is known to be missing (also for formats without lengths).
    """
    file.seek(0)
    head = file.read(16)
    if head[4:8] in _BOX_TYPES:
        return _boxes(file, size)
    if head[:4] == _EBML:
        return _ebml(file, size)
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        announced = int.from_bytes(head[4:8], "little") + 8
        return _missing("RIFF chunk", announced, size) if announced > size else ""
    if head == _ASF_HEADER:
        return _asf(file, size)
    if head[:3] == b"FLV":
        return _flv(file, size, int.from_bytes(head[5:9], "big"))
    if head[:4] == b"DKIF":
        return _ivf(file, size, int.from_bytes(head[6:8], "little"))
    if head[:4] == b"OggS":
        return _ogg(file, size)
    if head[:4] == b"GIF8" and size <= _MAX_GIF_BYTES:
        file.seek(0)
        return _gif(file.read())
    return ""


def is_whole_mp4(file: Readable, size: int) -> bool:
    """Whether a file is MP4 or MOV, holds all bytes of its boxes, and has one index for all of its pictures."""
    file.seek(0)
    if file.read(8)[4:8] not in _BOX_TYPES:
        return False
    boxes = list(_walk_boxes(file, size))
    kinds = {kind for kind, _ in boxes}
    return bool(boxes) and boxes[-1][1] <= size and b"moov" in kinds and not kinds & {b"moof", b"sidx"}


def _missing(what: str, announced: int, size: int) -> str:
    return f"the {what} ends at byte {announced}, the file at byte {size}"


def _boxes(file: Readable, size: int) -> str:
    for kind, end in _walk_boxes(file, size):
        if end > size:
            return _missing(f"box {kind.decode('ascii', 'replace')!r}", end, size)
    return ""


def _walk_boxes(file: Readable, size: int) -> Iterator[tuple[bytes, int]]:
    """Type and end of each outermost box; the last may end behind the file."""
    position = 0
    for _ in range(_MAX_BOXES):
        if position + 8 > size:
            return
        file.seek(position)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        elif length == 0:  # to the end of the file
            length = size - position
        if length < 8 or not kind.replace(b"\xa9", b"").decode("latin-1").isprintable():
            return
        position += length
        yield kind, position


def _ebml_size(data: bytes) -> tuple[int, int]:
    """(bytes that the number takes, its value or -1 for unknown)."""
    if not data or not data[0]:
        return 1, -1
    length = 9 - data[0].bit_length()
    if len(data) < length:
        return length, -1
    value = int.from_bytes(data[:length], "big") & ((1 << (7 * length)) - 1)
    return length, -1 if value == (1 << (7 * length)) - 1 else value


def _ebml(file: Readable, size: int) -> str:
    file.seek(0)
    head = file.read(4096)
    taken, length = _ebml_size(head[4:12])
    position = 4 + taken + length
    if position >= size:
        return f"the file ends at byte {size}, in its header"
    if length < 0 or position > len(head):
        return ""
    while head[position : position + 1] == b"\xec":  # Void elements may stand between
        taken, length = _ebml_size(head[position + 1 : position + 9])
        if length < 0:
            return ""
        position += 1 + taken + length
    if size < position + 12:
        return f"the file ends at byte {size}, before its Segment"
    if head[position : position + 4] != _SEGMENT:
        return ""
    taken, length = _ebml_size(head[position + 4 : position + 12])
    end = position + 4 + taken + length
    return _missing("Segment", end, size) if length >= 0 and end > size else ""


def _asf(file: Readable, size: int) -> str:
    position = 0
    while position + 24 <= size:
        file.seek(position)
        header = file.read(24)
        length = int.from_bytes(header[16:24], "little")
        if length < 24:
            return ""
        position += length
        if header[:16] == _ASF_DATA:
            break
    return _missing("data object", position, size) if position > size else ""


def _flv(file: Readable, size: int, position: int) -> str:
    """Only a missing video tag counts: sound may end as it likes."""
    if position < 9:
        return ""
    position += 4
    for _ in range(_MAX_TAGS):
        if position + 4 > size:
            return ""
        file.seek(position)
        header = file.read(11)
        if header[0] not in _FLV_TAGS or any(header[8:]):  # other bytes behind the last tag
            return ""
        length = int.from_bytes(header[1:4], "big")
        end = position + 11 + length
        if end > size:
            holds_picture = header[0] == _FLV_VIDEO and length > _FLV_PICTURELESS
            return _missing("video tag", end, size) if holds_picture else ""
        position = end + 4
    return ""


def _ivf(file: Readable, size: int, position: int) -> str:
    if position < 32:
        return ""
    for _ in range(_MAX_TAGS):
        if position >= size:
            return ""
        file.seek(position)
        end = position + 12 + int.from_bytes(file.read(4), "little")
        if end > size:
            return _missing("picture", end, size)
        position = end
    return ""


def _ogg(file: Readable, size: int) -> str:
    """Only a page of a stream that begins as video counts."""
    position = 0
    videos: set[bytes] = set()
    for _ in range(_MAX_TAGS):
        file.seek(position)
        header = file.read(27 + 255 + 8)
        if header[:4] != b"OggS" or len(header) < 27:
            return ""
        pieces = header[27 : 27 + header[26]]
        end = position + 27 + header[26] + sum(pieces)
        if header[5] & _OGG_FIRST and header[27 + header[26] :].startswith(_OGG_VIDEO):
            videos.add(header[14:18])
        if end > size or len(pieces) < header[26]:
            return f"the file ends at byte {size}, inside a page of pictures" if header[14:18] in videos else ""
        position = end
    return ""


def _gif(data: bytes) -> str:
    position = 13
    if len(data) > 10 and data[10] & 0x80:
        position += 3 << ((data[10] & 7) + 1)
    while position < len(data):
        kind = data[position]
        if kind == 0x21:  # extension
            position += 2
        elif kind == 0x2C:  # image
            if position + 9 < len(data) and data[position + 9] & 0x80:
                position += 3 << ((data[position + 9] & 7) + 1)
            position += 11
        else:  # the trailer, or padding that decoders ignore
            return ""
        last = 0
        while position < len(data) and data[position]:
            last = data[position]
            position += last + 1
        if kind == 0x2C and position == len(data) and 0 < last < 255:  # only a picture's last piece is shorter
            return ""
        if position >= len(data):
            return f"the file ends at byte {len(data)}, inside a picture's data"
        position += 1
    return ""  # only the trailer is missing; every picture is whole
