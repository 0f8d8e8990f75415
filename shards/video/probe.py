"""What a video is and when each picture is shown, without decoding more than the first picture.

One pass over the packets gives the presentation time of every picture; the same pass finds files that end before the
pictures they announce. Picking frames by these times (``decode.py``) then works for variable frame rates as well, and
gives the same frame numbers to every decoder.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...core.errors import DataError, Reason
from .container import (
    Limits,
    bound_pictures,
    describe,
    extension_of,
    may_begin_anywhere,
    open_bytes,
    open_container,
    out_of_memory,
    outgrown,
    video_stream,
)
from .orientation import Orientation
from .quirks import PacketWatch, Quirk, quirks_of
from .structure import broken_off

DEFAULT_LIMITS = Limits()
_FALLBACK_RATE = 25.0
_LONGEST_LAST_PICTURE_SECONDS = 10.0


@dataclass(frozen=True, eq=False)
class Probe:
    """Facts about a video.

    Attributes:
        container: extension for its container format ("mp4", "webm", "gif", ...), whatever the file was called.
        codec: FFmpeg's name of the codec ("h264", "vp9", ...).
        pix_fmt: FFmpeg's name of the pixel format.
        width, height: of the stored picture, pixels, before rotation.
        rotation: degrees clockwise that the stored picture is turned by for display: 0, 90, 180 or 270.
        fps: pictures divided by duration, per second.
        duration_seconds: from the first picture to the end of the last one, seconds.
        num_frames: number of pictures.
        start_seconds: time stamp of the first picture in the container, seconds (often 0).
        pts_seconds: float64 [num_frames], ascending, time of each picture relative to the first, seconds.
        keyframes: bool [num_frames], in the order of ``pts_seconds``.
        profile: the codec's profile as FFmpeg names it ("High", "Main 10"); empty when it names none.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    rotation: int
    fps: float
    duration_seconds: float
    num_frames: int
    start_seconds: float
    pts_seconds: np.ndarray = field(repr=False)
    keyframes: np.ndarray = field(repr=False)
    profile: str = ""

    def facts(self) -> dict[str, Any]:
        """The plain values, without the arrays, in a fixed order."""
        return {
            "container": self.container,
            "codec": self.codec,
            "pix_fmt": self.pix_fmt,
            "width": self.width,
            "height": self.height,
            "rotation": self.rotation,
            "fps": self.fps,
            "num_frames": self.num_frames,
            "duration_seconds": round(self.duration_seconds, 6),
        }


@dataclass(frozen=True, eq=False)
class DecodingPlan:
    """A probe, and what decoding needs beside it.

    Attributes:
        probe: the facts.
        pts: int64 [num_frames], ascending, in units of the stream's time base.
        ordinal: the container gives no usable time to single pictures (AVI, raw streams): the n-th picture that the
            decoder yields is the n-th of ``pts``.
        orientation: how the stored picture is turned and mirrored for display.
        damage: what the packets already show to be wrong, or None. The pictures before it can be decoded.
        num_hidden: packets that hold bytes and are not among ``pts``: hidden by an edit list, or undecodable before the
            first picture.
        announced_fps: pictures per second as the container and the codec announce them (OpenCV's CAP_PROP_FPS); 0.0
            when they do not.
        quirks: what leads a decoder astray that counts pictures and takes them to be of one size.
        colour_matrix: number of the matrix between RGB and the stored colours (matrix coefficients of ISO/IEC 23091-2:
            1 is BT.709, 5 and 6 are BT.601, 9 is BT.2020), 2 when the stream does not say.
    """

    probe: Probe
    pts: np.ndarray
    ordinal: bool
    orientation: Orientation
    damage: DataError | None
    num_hidden: int
    announced_fps: float
    quirks: frozenset[Quirk]
    colour_matrix: int


def probe(source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS) -> Probe:
    """Read a video's facts: one pass over its packets, one decoded picture.

    Args:
        source: a path or the file's bytes.
        limits: largest picture and longest video.

    Raises:
        DataError: the video cannot be used as a whole; ``reason`` says why (missing, empty, no video, truncated,
            damaged packets, an undecodable first picture, over the limits).
    """
    plan = make_plan(source, limits=limits)
    if plan.damage is not None:
        raise plan.damage
    return plan.probe


def make_plan(source: Path | bytes, *, limits: Limits = DEFAULT_LIMITS) -> DecodingPlan:
    """Like `probe`, but damage after a first good picture is reported in the plan instead of raised.

    Raises:
        DataError: there is no picture to begin with.
    """
    with open_container(source) as container:
        try:
            stream = video_stream(container)
            context = stream.codec_context
            if context.width or context.height:  # 0x0: known from the first picture only
                limits.check_size(context.width, context.height)
            context.thread_count = 1
            bound_pictures(stream, limits)
            packets = _read_packets(container, stream, limits)
            if not len(packets.pts):
                raise packets.damage or DataError(Reason.NO_FRAMES, "the video stream is empty")
            if packets.first is None:
                raise packets.damage or DataError(Reason.NO_FRAMES, "no picture could be decoded")
        except DataError as error:
            raise _cut_file(source, error) from None
        damage = packets.damage or _missing_tail(container, stream, packets, source)
        return _plan_of(container, stream, packets, damage, source, limits)


@dataclass(eq=False)
class _Packets:
    pts: np.ndarray  # int64, decode order
    durations: np.ndarray  # int64
    keyframes: np.ndarray  # bool
    read: int
    timeless: bool
    first: VideoFrame | None
    damage: DataError | None
    watch: PacketWatch


def _read_packets(container: InputContainer, stream: VideoStream, limits: Limits) -> _Packets:
    """Read every packet of the stream; decode up to the first clean picture."""
    pts: list[int] = []
    durations: list[int] = []
    keyframes: list[bool] = []
    read, timeless = 0, False
    keyframe_seen = not may_begin_anywhere(stream)
    first: VideoFrame | None = None
    corrupt_at: int | None = None
    damage: DataError | None = None
    decoding = True
    context = stream.codec_context
    watch = PacketWatch(context.codec.canonical_name, bytes(context.extradata or b""))
    try:
        for packet in container.demux(stream):
            if decoding and first is None:
                first, problem = _first_picture(packet, keyframe_seen or packet.is_keyframe)
                if first is not None:
                    limits.check_size(first.width, first.height)
                if problem is not None:
                    damage, decoding = problem, False
            if not packet.size:
                continue
            read += 1
            watch.see(packet)
            keyframe_seen = keyframe_seen or packet.is_keyframe
            if packet.is_corrupt and corrupt_at is None:
                corrupt_at = read
            if packet.is_discard:  # outside of the edit list: decoded, never shown
                continue
            time = packet.pts if packet.pts is not None else packet.dts
            timeless = timeless or packet.pts is None
            pts.append(len(pts) if time is None else time)
            durations.append(packet.duration or 0)
            keyframes.append(packet.is_keyframe)
    except av.error.FFmpegError as error:
        damage = damage or DataError(Reason.DAMAGED, f"packet {read + 1} cannot be read ({describe(error)})")
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None
    if corrupt_at is not None and damage is None:
        reason = Reason.TRUNCATED if corrupt_at == read else Reason.DAMAGED
        where = "the file ends inside" if reason is Reason.TRUNCATED else "bytes are missing in"
        damage = DataError(reason, f"{where} the packet of picture {corrupt_at}")
    times = np.asarray(pts, np.int64)
    usable = np.ones(len(pts), bool)
    if first is not None and first.pts is not None and not timeless:
        usable = times >= first.pts  # a broadcast cut in the middle begins with pictures that nobody can decode
    return _Packets(
        times[usable],
        np.asarray(durations, np.int64)[usable],
        np.asarray(keyframes, bool)[usable],
        read,
        timeless,
        first,
        damage,
        watch,
    )


def _first_picture(packet: Any, keyframe_seen: bool) -> tuple[VideoFrame | None, DataError | None]:
    try:
        for frame in packet.decode():
            if not frame.is_corrupt:
                return frame, None
            if frame.key_frame:  # it needs no other, so it is not for want of those before
                return None, DataError(Reason.DAMAGED, "the first picture is damaged")
    except (av.error.FFmpegError, MemoryError) as error:
        text = f"the first picture cannot be decoded ({describe(error)})"
        problem = out_of_memory(error) or outgrown(error, packet.stream)
        problem = problem or (DataError(Reason.DAMAGED, text) if keyframe_seen else None)
        return None, problem
    return None, None


def _cut_file(source: Path | bytes, error: DataError) -> DataError:
    """A stream without pictures in a file whose tail is missing is a truncated file."""
    if error.reason not in (Reason.NO_VIDEO_STREAM, Reason.NO_FRAMES, Reason.DAMAGED):
        return error
    file, size = open_bytes(source)
    with file:
        cut = broken_off(file, size)
    return DataError(Reason.TRUNCATED, cut) if cut else error


def _missing_tail(
    container: InputContainer, stream: VideoStream, packets: _Packets, source: Path | bytes
) -> DataError | None:
    """Compare what the container announces with what was read; only evidence in the file itself counts.

    A wrong duration in a header is no evidence (such files decode whole); a missing tail with missing pictures is.
    """
    file, size = open_bytes(source)
    with file:
        cut = broken_off(file, size)
    name = container.format.name
    announced = len(stream.index_entries) if "mov" in name else stream.frames if name == "avi" else 0
    if packets.read < announced:
        beyond = cut or ("mov" in name and any(e.pos + e.size > size for e in stream.index_entries))
        if beyond:
            return DataError(Reason.TRUNCATED, f"{packets.read} of {announced} pictures are in the file")
    if cut and ("matroska" in name or name == "asf"):
        spacing = np.diff(np.sort(packets.pts)) * float(stream.time_base or 0)
        return _short_of_duration(container, cut, source, float(np.median(spacing)) if len(spacing) else 0.0)
    if cut and name in ("gif", "flv", "ivf", "ogg"):
        return DataError(Reason.TRUNCATED, cut)
    return None


def _short_of_duration(container: InputContainer, cut: str, source: Path | bytes, usual: float) -> DataError | None:
    """A file without its tail: truncated unless its streams reach the announced duration (lost index only).

    Packets that do not say how long they last (ASF) are given the ``usual`` time between pictures, seconds.
    """
    if not container.duration:
        return DataError(Reason.TRUNCATED, cut)
    end, step = 0.0, 0.0
    with open_container(source) as again:
        try:
            for packet in again.demux():
                time = packet.pts if packet.pts is not None else packet.dts
                if packet.size and time is not None and packet.time_base:
                    length = float((packet.duration or 0) * packet.time_base) or usual
                    end, step = max(end, float(time * packet.time_base) + length), max(step, length)
        except av.error.FFmpegError:
            pass
    announced = container.duration / av.time_base
    if end >= announced - max(0.002, step / 2):
        return None
    return DataError(Reason.TRUNCATED, f"{end:.2f} of {announced:.2f} seconds are in the file; {cut}")


def _plan_of(
    container: InputContainer,
    stream: VideoStream,
    packets: _Packets,
    damage: DataError | None,
    source: Path | bytes,
    limits: Limits,
) -> DecodingPlan:
    order = np.argsort(packets.pts, kind="stable")
    pts, keyframes = packets.pts[order], packets.keyframes[order]
    unit = float(stream.time_base or 0)
    counted = packets.timeless and np.array_equal(pts, np.arange(len(pts)))
    if counted or unit <= 0:  # no time stamps at all: pictures at the nominal rate
        unit = 1 / float(stream.guessed_rate or stream.average_rate or _FALLBACK_RATE)
        pts = np.arange(len(pts), dtype=np.int64)
    seconds = (pts - pts[0]) * unit
    usual = float(np.median(np.diff(seconds))) if len(seconds) > 1 else 0.0
    duration = float(seconds[-1]) + _last_picture(float(packets.durations[order[-1]]) * unit, usual, stream)
    if duration > limits.max_seconds:
        raise DataError(Reason.TOO_LONG, f"{duration:.0f} seconds; the limit is {limits.max_seconds:.0f}")
    assert packets.first is not None
    orientation = Orientation.of(packets.first)
    context = stream.codec_context
    facts = Probe(
        container=extension_of(container, source),
        codec=context.codec.canonical_name,
        pix_fmt=packets.first.format.name,
        width=packets.first.width,
        height=packets.first.height,
        rotation=orientation.degrees,
        fps=round(len(pts) / duration, 6),
        duration_seconds=duration,
        num_frames=len(pts),
        start_seconds=0.0 if counted else float(pts[0]) * unit,
        pts_seconds=seconds,
        keyframes=keyframes,
        profile=context.profile or "",
    )
    # AVI numbers packets in storage order: with B-frames a picture bears another picture's time.
    ordinal = packets.timeless or container.format.name == "avi"
    announced = float(stream.guessed_rate or stream.average_rate or 0)
    return DecodingPlan(
        facts,
        pts,
        ordinal,
        orientation,
        damage,
        packets.read - len(pts),
        announced,
        quirks_of(container, packets.first, pts, packets.watch),
        int(packets.first.colorspace),
    )


def _last_picture(announced: float, usual: float, stream: VideoStream) -> float:
    """Seconds that the last picture is shown: as announced, but no absurd value from a damaged header."""
    if 0 < announced <= max(_LONGEST_LAST_PICTURE_SECONDS, 10 * usual):
        return announced
    return usual or 1 / float(stream.guessed_rate or stream.average_rate or _FALLBACK_RATE)
