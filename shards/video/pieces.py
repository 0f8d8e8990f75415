"""One piece of a video as a file: packets copied, times counted anew; the same packets give the same bytes.

In MP4 an edit list says which pictures are shown (ISO/IEC 14496-12, section 8.6.6). Pictures before or behind it are
decoded because others refer to them, and are never shown; FFmpeg and what is built on it mark their packets as
discarded.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import IO, Any

import av
from av.packet import Packet
from av.video.stream import VideoStream

from .muxing import BITEXACT, abandon_output

MUXERS = {"mp4": "mp4", "mov": "mov", "webm": "webm", "mkv": "matroska", "wmv": "asf", "flv": "flv", "avi": "avi"}
"""Extension -> FFmpeg's name of the container format, for pieces."""

_TAGS_KEPT = ("hvc1", "hev1")  # where HEVC keeps its parameter sets; FFmpeg would always say hev1
_FINEST_ENOUGH = 10_000  # ticks a second, as FFmpeg's own muxer has at least


class PieceWriter:
    """Write packets of one video stream into a file of its own; end with `finish`, or with `abandon` after an error.

    Args:
        path: where the file goes; written directly, without a temporary name.
        container: a key of `MUXERS`.
        template: the stream that the packets come from; its codec parameters (colour, rotation) are kept.
        shown_ticks: in MP4 and MOV, time from the first shown picture to the end of the last one, in the template's
            time base: what is later is hidden by the edit list. None shows everything from time 0 on.

    Raises:
        OSError: the disk is full, or the file cannot be written.
        ValueError, av.error.FFmpegError: the container cannot hold the stream.
    """

    def __init__(self, path: Path, container: str, template: VideoStream, shown_ticks: int | None = None) -> None:
        assert template.time_base is not None
        self.path = path
        self._base = template.time_base
        self._timescale = self._base.denominator
        while self._timescale < _FINEST_ENOUGH:
            self._timescale *= 2
        self._shown_ticks = shown_ticks if container in ("mp4", "mov") else None
        self._file: IO[bytes] = open(path, "wb")  # noqa: SIM115 - closed by __exit__
        options = dict(BITEXACT)
        if container in ("mp4", "mov"):
            # One unit for the track and the edit list: nothing is rounded.
            options |= {"movie_timescale": str(self._timescale), "video_track_timescale": str(self._timescale)}
        try:
            self._out = av.open(self._file, "w", format=MUXERS[container], options=options)
            self._stream: Any = self._out.add_stream_from_template(template, opaque=True)
            tag = template.codec_context.codec_tag
            if container in ("mp4", "mov") and tag in _TAGS_KEPT:
                self._stream.codec_context.codec_tag = tag
            self._stream.time_base = self._base
        except BaseException:
            self._file.close()
            raise

    def write(self, packet: Packet, pts: int, dts: int) -> None:
        """Append a packet; it is changed. Times are in the template's time base, 0 for the first shown picture."""
        packet.stream = self._stream
        packet.time_base = self._base
        packet.pts, packet.dts = pts, dts
        self._out.mux(packet)

    def finish(self) -> None:
        """Write the end of the file and close it."""
        try:
            self._out.close()
            self._file.close()
            if self._shown_ticks is not None:
                shown = self._shown_ticks * self._base.numerator * (self._timescale // self._base.denominator)
                _end_edit(self.path, shown)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is."""
        abandon_output(self._file, self._out)


def _end_edit(path: Path, duration: int) -> None:
    """Let the last entry of the only edit list end after ``duration`` units of the movie's time scale."""
    with open(path, "r+b") as file:
        start, end = 0, os.fstat(file.fileno()).st_size
        for name in (b"moov", b"trak", b"edts", b"elst"):
            start, end = _find_box(file, name, start, end)
        file.seek(start)
        version, entries = struct.unpack(">B3xI", file.read(8))
        form, size = (">I", 12) if version == 0 else (">Q", 20)
        if version == 0 and duration > 0xFFFFFFFF:
            raise ValueError(f"{path}: a duration of {duration} does not fit an edit list of version 0")
        file.seek(start + 8 + (entries - 1) * size)
        file.write(struct.pack(form, duration))


def _find_box(file: IO[bytes], name: bytes, start: int, end: int) -> tuple[int, int]:
    """Where the content of the first box of that name begins and ends."""
    while start + 8 <= end:
        file.seek(start)
        head = file.read(16)
        size, header = int.from_bytes(head[:4], "big"), 8
        if size == 1:
            size, header = int.from_bytes(head[8:16], "big"), 16
        if size < header:
            break
        if head[4:8] == name:
            return start + header, start + size
        start += size
    raise ValueError(f"no box {name.decode()} between bytes {start} and {end}")
