"""What in a stream leads a decoder astray that counts pictures and takes all of them to be of one size.

DALI asks for pictures by number, makes room for them from the size in the container's header, and takes one video
stream as the only one; what it gives for the streams below is another picture, or half of one, without an error. The
packets tell most of it before anything is decoded: the headers of VP8 (RFC 6386 section 9.1), VP9 (the bitstream
specification, section 6.2) and JPEG (ISO/IEC 10918-1, annex B) are read; the parameters of H.264, HEVC, MPEG-4 and AV1
are compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame

_SUPERFRAME, _SUPERFRAME_MASK = 0xC0, 0xE0
_NEVER_REORDERED = ("vp8", "vp9", "av1", "mjpeg")
_H264_SPS = 7
_WITH_CHROMA_FORMAT = (100, 110, 122, 244, 44, 83, 86, 118, 128)  # profiles whose parameters name it
_MPEG4_VOL = range(0x20, 0x30)
_AV1_SEQUENCE = 1
_HEADER_BYTES = 4096  # parameters stand at the beginning of a packet


class Quirk(StrEnum):
    """One of these things, as the end of a sentence about a video."""

    SEVERAL_STREAMS = "it holds several video streams"
    HIDDEN = "it holds pictures that are never shown"
    CHANGES = "its pictures change their size or coding within the stream"
    INTERLACED = "its pictures are interlaced"
    GREY = "its pictures are grey and have no colour planes"
    DISORDER = "its pictures are not stored in the order of their time stamps"
    EQUAL_TIMES = "two of its pictures have the same time stamp"
    NEGATIVE_TIMES = "its time stamps begin below zero"


class PacketWatch:
    """Looks at the packets of a stream as they come.

    Args:
        codec: FFmpeg's name.
        extradata: the parameters that the container holds outside of the packets.

    Attributes:
        quirks: what was found so far.
    """

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.quirks: set[Quirk] = set()
        self._codec = codec
        self._extradata = extradata
        self._first: object = None
        self._last_time: int | None = None
        if codec == "h264" and any(
            unit[0] & 31 == _H264_SPS and _is_grey(unit) for unit in _units_of_record(extradata)
        ):
            self.quirks.add(Quirk.GREY)

    def see(self, packet: Packet) -> None:
        """The next packet, in decoding order; it holds bytes."""
        if self._codec in _NEVER_REORDERED and packet.pts is not None:
            if self._last_time is not None and packet.pts < self._last_time:
                self.quirks.add(Quirk.DISORDER)
            self._last_time = packet.pts
        data = memoryview(packet)
        parameters: object = None
        if self._codec == "vp9":
            self._vp9(data)
        elif self._codec == "vp8":
            if not data[0] & 0x10:
                self.quirks.add(Quirk.HIDDEN)
            if not data[0] & 1:  # a keyframe: width and height with their scale
                parameters = bytes(data[6:10])
        elif self._codec == "mjpeg":
            parameters = _jpeg_frame(data)
        elif packet.is_keyframe:
            if packet.has_sidedata("new_extradata"):
                self.quirks.add(Quirk.CHANGES)
            parameters = self._parameters(bytes(data[:_HEADER_BYTES]))
        self._compare(parameters)

    def _compare(self, parameters: object) -> None:
        if not parameters:
            return
        if self._first is None:
            self._first = parameters
        elif parameters != self._first:
            self.quirks.add(Quirk.CHANGES)

    def _vp9(self, data: memoryview) -> None:
        shown = 0
        for frame in _vp9_frames(data):
            visible, size = _vp9_header(frame)
            shown += visible
            self._compare(size)
        if shown != 1:
            self.quirks.add(Quirk.HIDDEN)

    def _parameters(self, head: bytes) -> object:
        if self._codec == "mpeg4":
            return next((unit for unit in _units(head) if unit[0] in _MPEG4_VOL), None)
        if self._codec == "av1":
            return next((unit for kind, unit in _obus(head) if kind == _AV1_SEQUENCE), None)
        if self._codec not in ("h264", "hevc"):
            return None
        found = []
        for unit in self._nal_units(head):
            kind = unit[0] & 31 if self._codec == "h264" else unit[0] >> 1 & 63
            picture, parameter_set = ((1, 5), _H264_SPS) if self._codec == "h264" else ((0, 31), 33)
            if picture[0] <= kind <= picture[1]:
                break
            if kind == parameter_set:
                found.append(unit)
                if self._codec == "h264" and _is_grey(unit):
                    self.quirks.add(Quirk.GREY)
        if self._extradata.startswith(b"\x01") and any(unit not in self._extradata for unit in found):
            self.quirks.add(Quirk.CHANGES)
        return found

    def _nal_units(self, head: bytes) -> Iterator[bytes]:
        """With start codes (annex B), or with lengths when the container's record begins with version 1."""
        where = 4 if self._codec == "h264" else 21
        if not self._extradata.startswith(b"\x01") or len(self._extradata) <= where:
            yield from _units(head)
            return
        count, at = (self._extradata[where] & 3) + 1, 0
        while at + count < len(head):
            length = int.from_bytes(head[at : at + count], "big")
            if length:
                yield head[at + count : at + count + length]
            at += count + length


def quirks_of(container: InputContainer, first: VideoFrame, pts: np.ndarray, watch: PacketWatch) -> frozenset[Quirk]:
    """All quirks of a stream whose packets ``watch`` has seen.

    Args:
        container: it lies in.
        first: its first picture.
        pts: int64 [N], ascending, N >= 1, of all pictures.
    """
    found = set(watch.quirks)
    if sum(not stream.disposition & Disposition.attached_pic for stream in container.streams.video) > 1:
        found.add(Quirk.SEVERAL_STREAMS)
    if first.interlaced_frame:
        found.add(Quirk.INTERLACED)
    if (np.diff(pts) == 0).any():
        found.add(Quirk.EQUAL_TIMES)
    if pts[0] < 0:
        found.add(Quirk.NEGATIVE_TIMES)
    return frozenset(found)


def _units(data: bytes) -> Iterator[bytes]:
    """What stands between start codes 00 00 01."""
    for part in data.split(b"\x00\x00\x01")[1:]:
        if unit := part.rstrip(b"\x00"):
            yield unit


def _units_of_record(extradata: bytes) -> Iterator[bytes]:
    """The first parameter set of a record of version 1 (ISO/IEC 14496-15), or all units behind start codes."""
    if not extradata.startswith(b"\x01"):
        yield from _units(extradata)
    elif unit := extradata[8 : 8 + int.from_bytes(extradata[6:8], "big")]:
        yield unit


def _is_grey(sps: bytes) -> bool:
    """Whether an H.264 sequence parameter set (ITU-T H.264, 7.3.2.1.1) has chroma_format_idc 0. FFmpeg calls such
    pictures yuv420p as well."""
    if len(sps) < 5 or sps[1] not in _WITH_CHROMA_FORMAT:
        return False
    bits = _Bits(memoryview(sps)[4:])
    return bits.golomb() >= 0 and bits.golomb() == 0  # behind the number of the set


def _obus(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and payload of AV1's units, as long as they bear their size."""
    at = 0
    while at < len(data) and data[at] & 2:
        kind, at = data[at] >> 3 & 15, at + 1 + (data[at] >> 2 & 1)
        size = shift = 0
        while at < len(data):
            size |= (data[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if not data[at - 1] & 128:
                break
        yield kind, data[at : at + size]
        at += size


def _jpeg_frame(data: memoryview) -> bytes | None:
    """Precision, height, width and the sampling of each component, as the frame header has them."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return bytes(data[at + 4 : at + 10]) + bytes(data[at + 11 : at + 10 + 3 * data[at + 9] : 3])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _vp9_frames(data: memoryview) -> list[memoryview]:
    """The frames in a packet: one, or those that the index at its end lists."""
    last = data[-1]
    if last & _SUPERFRAME_MASK != _SUPERFRAME:
        return [data]
    count, width = (last & 7) + 1, (last >> 3 & 3) + 1
    index = data[len(data) - 2 - count * width :]
    if len(index) != 2 + count * width or index[0] != last:
        return [data]
    frames, at = [], 0
    for number in range(count):
        size = int.from_bytes(index[1 + number * width : 1 + (number + 1) * width], "little")
        if size:
            frames.append(data[at : at + size])
        at += size
    return frames


def _vp9_header(frame: memoryview) -> tuple[bool, tuple[int, int] | None]:
    """Whether a frame is shown, and its size where it is written there (other frames have that of a reference)."""
    bits = _Bits(frame)
    bits.take(2)
    profile = bits.take(1) | bits.take(1) << 1
    if profile == 3:
        bits.take(1)
    if bits.take(1):  # shows a frame again
        return True, None
    inter, shown, resilient = bits.take(1), bits.take(1), bits.take(1)
    if inter:
        intra_only = 0 if shown else bits.take(1)
        if not resilient:
            bits.take(2)
        if not intra_only:
            bits.take(8 + 3 * 4)  # what it refreshes, and its three references
            if bits.take(1) or bits.take(1) or bits.take(1):
                return bool(shown), None
        else:
            bits.take(24)
            if profile:
                _skip_vp9_colours(bits, profile)
            bits.take(8)
    else:
        bits.take(24)
        _skip_vp9_colours(bits, profile)
    return bool(shown), (bits.take(16), bits.take(16))


def _skip_vp9_colours(bits: _Bits, profile: int) -> None:
    if profile >= 2:
        bits.take(1)
    if bits.take(3) != 7:
        bits.take(1)
        if profile & 1:
            bits.take(3)
    elif profile & 1:
        bits.take(1)


class _Bits:
    """Reads the first bits of a frame, highest first; zeros after its end."""

    _BYTES = 20

    def __init__(self, data: memoryview) -> None:
        self._value = int.from_bytes(bytes(data[: self._BYTES]).ljust(self._BYTES, b"\x00"), "big")
        self._left = 8 * self._BYTES

    def take(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def golomb(self) -> int:
        """The next number in Exp-Golomb code (ITU-T H.264, 9.1)."""
        zeros = 0
        while not self.take(1) and zeros < 32:
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)
