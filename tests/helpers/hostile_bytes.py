"""Damage done to the bytes of a whole video: cuts, flips, holes, and headers that lie."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

Damage = Callable[[bytes, random.Random], bytes]

_HEADER_BYTES = 600


def box(kind: bytes, body: bytes) -> bytes:
    """An MP4 box."""
    return struct.pack(">I", 8 + len(body)) + kind + body


def cut(data: bytes, rng: random.Random) -> bytes:
    """The first part, of any length."""
    return data[: rng.randrange(1, len(data))]


def cut_late(data: bytes, rng: random.Random) -> bytes:
    """All but the last hundred bytes or fewer."""
    return data[: -rng.randrange(1, min(100, len(data) // 2))]


def flip_one(data: bytes, rng: random.Random) -> bytes:
    """One bit anywhere."""
    return _flipped(data, [rng.randrange(len(data))], rng)


def flip_in_header(data: bytes, rng: random.Random) -> bytes:
    """A few bits in the first hundreds of bytes."""
    return _flipped(data, [rng.randrange(min(_HEADER_BYTES, len(data))) for _ in range(4)], rng)


def flip_many(data: bytes, rng: random.Random) -> bytes:
    """A bit in every 200 bytes."""
    return _flipped(data, [rng.randrange(len(data)) for _ in range(len(data) // 200 + 1)], rng)


def flip_in_data(data: bytes, rng: random.Random) -> bytes:
    """A few bits in the middle half."""
    return _flipped(data, [rng.randrange(len(data) // 4, len(data) * 3 // 4) for _ in range(8)], rng)


def _flipped(data: bytes, places: list[int], rng: random.Random) -> bytes:
    out = bytearray(data)
    for place in places:
        out[place] ^= 1 << rng.randrange(8)
    return bytes(out)


def hole(data: bytes, rng: random.Random) -> bytes:
    """A block of zeros, as an unfinished download leaves it."""
    length = max(1, len(data) // 10)
    start = rng.randrange(len(data) - length)
    return data[:start] + bytes(length) + data[start + length :]


def lost_block(data: bytes, rng: random.Random) -> bytes:
    """A block taken out."""
    start = rng.randrange(len(data) - 1)
    return data[:start] + data[start + rng.randrange(1, max(2, len(data) // 10)) :]


def doubled_block(data: bytes, rng: random.Random) -> bytes:
    """A block written twice."""
    start = rng.randrange(len(data) - 1)
    length = rng.randrange(1, max(2, len(data) // 10))
    return data[: start + length] + data[start:]


def twice(data: bytes, rng: random.Random) -> bytes:
    """The file behind itself."""
    return data + data


def trailing(data: bytes, rng: random.Random) -> bytes:
    """Other bytes behind the end."""
    return data + rng.randbytes(700)


def leading(data: bytes, rng: random.Random) -> bytes:
    """Other bytes before the beginning."""
    return rng.randbytes(300) + data


def only_head(data: bytes, rng: random.Random) -> bytes:
    """A valid beginning, then random bytes to the old length."""
    keep = rng.choice((4, 12, 32, 200))
    return data[:keep] + rng.randbytes(max(0, len(data) - keep))


def within(kind: bytes, offset: int, value: bytes, *, last: bool = False) -> Damage:
    """Write ``value`` at ``offset`` bytes behind the first (or last) ``kind`` in the file."""

    def damage(data: bytes, rng: random.Random) -> bytes:
        at = (data.rindex(kind) if last else data.index(kind)) + len(kind) + offset
        return data[:at] + value + data[at + len(value) :]

    return damage


def every(kind: bytes, offset: int, value: bytes) -> Damage:
    """Write ``value`` at ``offset`` bytes behind each ``kind``."""

    def damage(data: bytes, rng: random.Random) -> bytes:
        out, at = bytearray(data), data.find(kind)
        assert at >= 0
        while at >= 0:
            start = at + len(kind) + offset
            out[start : start + len(value)] = value
            at = data.find(kind, at + 1)
        return bytes(out)

    return damage


def without(kind: bytes) -> Damage:
    """An MP4 one of whose boxes has another name, so that nobody finds it."""
    return within(kind, -4, b"skip")


def u32(value: int) -> bytes:
    """Big-endian."""
    return struct.pack(">I", value)


def little(value: int) -> bytes:
    """Little-endian, four bytes."""
    return struct.pack("<I", value)


ANYWHERE: tuple[tuple[str, Damage], ...] = (
    ("cut", cut),
    ("cut late", cut_late),
    ("one bit flipped", flip_one),
    ("header bits flipped", flip_in_header),
    ("many bits flipped", flip_many),
    ("data bits flipped", flip_in_data),
    ("hole", hole),
    ("lost block", lost_block),
    ("doubled block", doubled_block),
    ("twice", twice),
    ("bytes behind the end", trailing),
    ("bytes before the beginning", leading),
    ("random behind a magic", only_head),
)
"""Damage that can be done to any format."""

_MOST = 0xFFFFFFFF
# Offsets are those behind the box's name, ISO/IEC 14496-12; of an AVI main header and stream header behind their names,
# where a length of four bytes comes first; of EBML behind the element's id.
LIES: tuple[tuple[str, str, Damage], ...] = (
    ("lying duration", "front.mp4", within(b"mvhd", 16, u32(0))),
    ("lying duration", "front.mp4", within(b"mvhd", 16, u32(36_000_000))),
    ("lying duration", "front.mp4", within(b"mvhd", 16, u32(_MOST))),
    ("lying duration", "front.mp4", within(b"mdhd", 16, u32(0))),
    ("lying duration", "front.mp4", within(b"mdhd", 16, u32(_MOST))),
    ("lying duration", "front.mp4", within(b"elst", 8, u32(1))),
    ("lying duration", "front.mp4", within(b"elst", 8, u32(_MOST))),
    ("lying duration", "h264.mkv", within(b"\x44\x89\x88", 0, struct.pack(">d", 0.0))),
    ("lying duration", "h264.mkv", within(b"\x44\x89\x88", 0, struct.pack(">d", 3.6e7))),
    ("lying duration", "h264.mkv", within(b"\x44\x89\x88", 0, struct.pack(">d", float("nan")))),
    ("lying duration", "vp9.webm", within(b"\x44\x89\x88", 0, struct.pack(">d", -5e9))),
    ("lying duration", "mpeg4.avi", within(b"avih", 20, little(0))),
    ("lying duration", "mpeg4.avi", within(b"avih", 20, little(_MOST))),
    ("lying duration", "mpeg4.avi", within(b"strh", 36, little(7))),
    ("lying duration", "mpeg4.avi", within(b"strh", 36, little(1 << 30))),
    ("lying duration", "flash.flv", within(b"duration\0", 0, struct.pack(">d", 1e9))),
    ("lying duration", "flash.flv", within(b"duration\0", 0, struct.pack(">d", float("nan")))),
    ("lying rate", "front.mp4", within(b"mvhd", 12, u32(0))),
    ("lying rate", "front.mp4", within(b"mdhd", 12, u32(0))),
    ("lying rate", "front.mp4", within(b"mdhd", 12, u32(1))),
    ("lying rate", "front.mp4", within(b"mdhd", 12, u32(_MOST))),
    ("lying rate", "front.mp4", within(b"stts", 12, u32(0))),
    ("lying rate", "front.mp4", within(b"stts", 12, u32(0x7FFFFFFF))),
    ("lying rate", "front.mp4", within(b"stts", 8, u32(_MOST))),
    ("lying rate", "front.mp4", within(b"stts", 8, u32(3))),
    ("lying rate", "front.mp4", within(b"ctts", 12, u32(0x80000000))),
    ("lying rate", "h264.mkv", within(b"\x2a\xd7\xb1", 1, b"\0\0\0")),
    ("lying rate", "h264.mkv", within(b"\x2a\xd7\xb1", 1, b"\xff\xff\xff")),
    ("lying rate", "h264.mkv", within(b"\x23\xe3\x83", 1, b"\0\0\0\1")),
    ("lying rate", "mpeg4.avi", within(b"strh", 24, little(0))),
    ("lying rate", "mpeg4.avi", within(b"strh", 28, little(0))),
    ("lying rate", "mpeg4.avi", within(b"strh", 28, little(_MOST))),
    ("lying rate", "mpeg4.avi", within(b"avih", 4, little(0))),
    ("lying rate", "picture.gif", every(b"\x21\xf9\x04", 1, b"\0\0")),
    ("lying rate", "picture.gif", every(b"\x21\xf9\x04", 1, b"\xff\xff")),
    ("lying rate", "raw.y4m", within(b" F", 0, b"0:0 ")),
    ("lying rate", "vp8.ivf", within(b"DKIF", 12, bytes(8))),
    ("lying size", "front.mp4", within(b"tkhd", 76, u32(_MOST) * 2)),
    ("lying size", "front.mp4", within(b"avc1", 24, b"\xff\xff\xff\xff")),
    ("lying size", "front.mp4", within(b"avc1", 24, bytes(4))),
    ("lying size", "h264.mkv", within(b"\xb0\x81", 0, b"\x00")),
    ("lying size", "h264.mkv", within(b"\xba\x81", 0, b"\xff")),
    ("lying size", "mjpeg.avi", within(b"strf", 8, little(100_000) * 2)),
    ("lying size", "picture.gif", within(b"GIF89a", 0, b"\xff\xff\xff\xff")),
    ("lying size", "vp8.ivf", within(b"VP80", 0, b"\xff\xff\xff\xff")),
    ("lying size", "raw.y4m", within(b"YUV4MPEG2 W", 0, b"99")),
    ("lying size", "moving.apng", within(b"IHDR", 0, u32(0x7FFFFFFF) * 2)),
    ("lying sample table", "front.mp4", within(b"stco", 8, u32(0x7FFFFFF0))),
    ("lying sample table", "end.mp4", within(b"stco", 8, u32(0))),
    ("lying sample table", "front.mp4", within(b"stco", 4, u32(_MOST))),
    ("lying sample table", "front.mp4", within(b"stsz", 8, u32(_MOST))),
    ("lying sample table", "front.mp4", within(b"stsz", 4, u32(1) + u32(0x7FFFFFFF))),
    ("lying sample table", "front.mp4", within(b"stsc", 12, u32(0x7FFFFFFF))),
    ("lying sample table", "front.mp4", within(b"stsz", 12 + 4 * 5, u32(1 << 30))),
    ("lying sample table", "front.mp4", within(b"stss", 4, u32(_MOST))),
    ("empty packets", "front.mp4", within(b"stsz", 12 + 4 * 5, u32(0))),
    ("empty packets", "front.mp4", within(b"stsz", 12, bytes(4 * 20))),
    ("empty packets", "still.mov", within(b"stsz", 12 + 4 * 19, u32(0))),
    ("huge box", "front.mp4", within(b"moov", -8, u32(_MOST))),
    ("huge box", "front.mp4", within(b"mdat", -8, u32(_MOST), last=True)),
    ("huge box", "front.mp4", within(b"mdat", -8, u32(1), last=True)),
    ("huge box", "front.mp4", within(b"trak", -8, u32(0))),
    ("huge box", "front.mp4", within(b"udta", -8, u32(0x7FFFFFFF))),
    ("huge box", "parts.mp4", within(b"trun", 4, u32(_MOST))),
    ("huge box", "h264.mkv", within(b"\x1f\x43\xb6\x75", 0, b"\x08\x7f\xff\xff")),
    ("huge box", "mpeg4.avi", within(b"RIFF", 0, little(_MOST))),
    ("huge box", "mpeg4.avi", within(b"movi", -8, little(_MOST))),
    ("no index", "front.mp4", without(b"moov")),
    ("no index", "end.mp4", without(b"moov")),
    ("no index", "front.mp4", without(b"stco")),
    ("no index", "front.mp4", without(b"stbl")),
    ("no index", "mpeg4.avi", within(b"idx1", -4, b"JUNK")),
    ("no index", "h264.mkv", within(b"\x1c\x53\xbb\x6b", -4, b"\xec\xec\xec\xec")),
)
"""Headers that lie: kind, whole video, what is written where."""
