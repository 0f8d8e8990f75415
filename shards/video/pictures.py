"""Decoded pictures of a video with their places in its plan: all of them, or only those that are wanted.

The way that takes everything defines what a video shows and what is wrong with it. The shorter ways leave out what no
wanted picture needs; they give the very same pictures or end early, and the caller goes on with the first way:

* keyframes are decoded one by one, each with an empty decoder, and must come out as what their packets claim to be;
* pictures to which no other refers (most B-pictures) are not decoded when they are not wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import av.error
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame
from av.video.stream import VideoStream

from ...core.errors import DataError, Reason
from .container import Limits, bound_pictures, describe, may_begin_anywhere, out_of_memory, outgrown, video_stream
from .probe import DecodingPlan

# Codecs that mark the pictures to which no other refers.
_MARKED_CODECS = frozenset(["h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"])
# Its two fields may be two packets, of which only the first is marked as a keyframe or asked for.
_FIELDS_APART = frozenset(["h264"])
_PROBLEMS = (av.error.FFmpegError, OSError, MemoryError, DataError)

Way = Callable[[InputContainer, DecodingPlan, np.ndarray, int, Limits], Iterator[tuple[int, VideoFrame]]]
"""(container just opened, its plan, wanted indices, decoder threads, limits) -> (index, picture), from the first wanted
one on, in order; it ends early at whatever is not as it should be, damage included."""


def shorter_way(plan: DecodingPlan, wanted: np.ndarray, *, keyframes_only: bool) -> Way | None:
    """How to get these pictures without decoding what they do not need, if there is a way.

    Damage in what is left out is not seen. That is: pictures to which no other refers, and with ``keyframes_only``, or
    where every picture is a keyframe, all that are not wanted. What the packets show to be wrong (``plan.damage``) is
    seen as ever.

    Args:
        plan: of the video.
        wanted: int64 [K], strictly ascending indices into ``plan.pts``.
        keyframes_only: whether what lies between keyframes may be left out when all of ``wanted`` are.
    """
    keyframes = plan.probe.keyframes
    if not len(wanted) or len(wanted) == len(plan.pts) or (np.diff(plan.pts) <= 0).any():
        return None
    if plan.ordinal:  # the n-th packet is the n-th picture where nothing is reordered or left out
        return _lone_keyframes if keyframes.all() and not plan.num_hidden else None
    if keyframes.all() or (keyframes_only and keyframes[wanted].all()):
        return _lone_keyframes
    return _without_unreferenced if plan.probe.codec in _MARKED_CODECS else None


def _lone_keyframes(
    container: InputContainer, plan: DecodingPlan, wanted: np.ndarray, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    remaining = iter(wanted.tolist())
    awaited = next(remaining)
    number = -1
    with suppress(*_PROBLEMS):
        # One thread: there is one picture at a time, and H.264's slice threads look less closely for damage.
        stream = _prepared(container, 1, limits)
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            number += 1
            if packet.is_corrupt or (not packet.is_keyframe and packet.has_sidedata("new_extradata")):
                return
            index = number if plan.ordinal else _index_of(packet, plan)
            if not packet.is_keyframe or index < awaited:
                continue
            frame = _decoded_alone(packet, stream) if index == awaited else None
            if frame is None or not _sound(frame, plan, limits):
                return
            yield awaited, frame
            awaited = next(remaining, -1)
            if awaited < 0:
                return


def _index_of(packet: Packet, plan: DecodingPlan) -> int:
    """Of a packet's picture in the plan; -1 when it is not there."""
    if packet.pts is None:
        return -1
    index = int(np.searchsorted(plan.pts, packet.pts))
    return index if index < len(plan.pts) and plan.pts[index] == packet.pts else -1


def _decoded_alone(packet: Packet, stream: VideoStream) -> VideoFrame | None:
    """The picture of a packet, if it is one that refers to no other."""
    frames = [*packet.decode(), *stream.decode(None)]
    stream.codec_context.flush_buffers()  # it takes packets again
    if len(frames) != 1:
        return None
    frame = frames[0]
    return frame if frame.key_frame and frame.pict_type == PictureType.I and frame.pts == packet.pts else None


def _without_unreferenced(
    container: InputContainer, plan: DecodingPlan, wanted: np.ndarray, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    index_of = dict(zip(plan.pts[wanted].tolist(), wanted.tolist(), strict=True))
    remaining = iter(index_of)
    awaited, skipping = next(remaining), False
    with suppress(*_PROBLEMS):
        stream = _prepared(container, threads, limits)
        if not _marks_can_be_trusted(stream):
            return
        for packet in container.demux(stream):
            if packet.is_corrupt:
                return
            if skipping != (packet.pts not in index_of):
                skipping = not skipping
                stream.codec_context.skip_frame = "NONREF" if skipping else "DEFAULT"
            for frame in packet.decode():
                if frame.pts is None or frame.pts > awaited or not _sound(frame, plan, limits):
                    return
                if frame.pts == awaited:
                    yield index_of[awaited], frame
                    following = next(remaining, None)
                    if following is None:
                        return
                    awaited = following


def _marks_can_be_trusted(stream: VideoStream) -> bool:
    """Not for HEVC with temporal layers: pictures of the layers above may refer to a marked one (ITU-T H.265, 7.4.2.2).

    The record that MP4 and Matroska keep says how many there are (ISO/IEC 14496-15, 8.3.3.1: numTemporalLayers).
    """
    if stream.codec_context.name != "hevc":
        return True
    record = stream.codec_context.extradata or b""
    return len(record) > 21 and record[0] == 1 and record[21] >> 3 & 7 == 1


def _prepared(container: InputContainer, threads: int, limits: Limits) -> VideoStream:
    stream = video_stream(container)
    stream.codec_context.thread_type, stream.codec_context.thread_count = "AUTO", threads
    bound_pictures(stream, limits)
    return stream


def _sound(frame: VideoFrame, plan: DecodingPlan, limits: Limits) -> bool:
    limits.check_size(frame.width, frame.height)
    fields_apart = plan.probe.codec in _FIELDS_APART and frame.interlaced_frame
    return not frame.is_corrupt and not fields_apart


def all_pictures(
    container: InputContainer, plan: DecodingPlan, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    """Every decoded picture with its index in the plan; indices ascend.

    Raises:
        DataError: after the last good picture, when there is damage.
    """
    stream = _prepared(container, threads, limits)
    last = -1
    for frame in _pictures(container, stream, plan.damage):
        limits.check_size(frame.width, frame.height)
        if plan.ordinal or frame.pts is None:
            index = last + 1
        elif frame.pts < plan.pts[0]:
            continue  # before the first usable picture
        else:
            index = int(np.searchsorted(plan.pts, frame.pts, side="right")) - 1
        last = min(max(index, last), len(plan.pts) - 1)
        yield last, frame


def _pictures(container: InputContainer, stream: VideoStream, known: DataError | None) -> Iterator[VideoFrame]:
    """Decode in display order up to the first damage, which is raised after the pictures before it.

    What cannot be decoded before the first keyframe (a recording that starts in the middle) is no damage.
    """
    keyframe_seen, number = not may_begin_anywhere(stream), 0
    try:
        for packet in container.demux(stream):
            keyframe_seen = keyframe_seen or packet.is_keyframe
            if packet.is_corrupt:
                yield from _drained(stream)
                raise known or DataError(Reason.DAMAGED, f"bytes are missing after picture {number}")
            try:
                frames = packet.decode()
            except (av.error.FFmpegError, MemoryError) as error:
                if not keyframe_seen and not number:
                    continue
                yield from _drained(stream)
                text = f"invalid data at picture {number} ({describe(error)})"
                why = out_of_memory(error) or outgrown(error, stream)
                raise why or known or DataError(Reason.DAMAGED, text) from None
            for frame in frames:
                if frame.is_corrupt:
                    if not number and not frame.key_frame:
                        continue
                    raise known or DataError(Reason.DAMAGED, f"picture {number} is damaged")
                number += 1
                yield frame
    except av.error.FFmpegError as error:
        raise known or DataError(Reason.DAMAGED, f"unreadable after picture {number} ({describe(error)})") from None
    except OSError as error:
        raise DataError(Reason.UNREADABLE, error.strerror or str(error)) from None


def _drained(stream: VideoStream) -> Iterator[VideoFrame]:
    """Good pictures that the decoder still holds back for reordering."""
    try:
        for frame in stream.decode(None):
            if frame.is_corrupt:
                return
            yield frame
    except av.error.FFmpegError:
        return
