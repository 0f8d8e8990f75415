"""Pictures of a video on the CPU, chosen by the time at which they are shown.

Frame ``t`` of a sample at 1 fps is the picture that a viewer sees at second ``t``: the last one whose time stamp is not
later, counted from the first picture. Every video gives at least one. Only chosen pictures are converted to RGB, and
never more than one decoder's worth of others is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from ...core.errors import DataError, Reason
from .container import (
    Limits,
    bound_pictures,
    describe,
    may_begin_anywhere,
    open_container,
    out_of_memory,
    outgrown,
    video_stream,
)
from .orientation import Orientation
from .probe import DEFAULT_LIMITS, DecodingPlan, make_plan

_PTS_TOLERANCE_SECONDS = 1e-6  # float rounding of time stamps
_END_TOLERANCE_SECONDS = 2e-3  # containers that count milliseconds
# Rounded the same way on every processor; the fast path of swscale is off by up to 2 of 255 when it scales.
_EXACT = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.BITEXACT


@dataclass(eq=False)
class FrameBatch:
    """Pictures and their times.

    Attributes:
        frames: uint8 [T, H, W, 3], RGB in 0..255, as displayed (rotation applied).
        times: float64 [T], the instant each picture was sampled at, seconds from the first picture; ascending.
        pts: float64 [T], time stamp of the picture shown at that instant, seconds from the first picture;
            ``pts <= times``, equal when every frame is taken.
    """

    frames: np.ndarray
    times: np.ndarray
    pts: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.frames) == len(self.times) == len(self.pts):
            raise ValueError(
                f"lengths differ: frames {self.frames.shape}, times {self.times.shape}, pts {self.pts.shape}"
            )

    def __len__(self) -> int:
        return len(self.frames)

    def __repr__(self) -> str:
        span = f"{self.times[0]:.3f}..{self.times[-1]:.3f} s" if len(self) else "empty"
        return f"FrameBatch(frames={self.frames.dtype}{list(self.frames.shape)}, times={span})"


class DamagedVideo(DataError):
    """Damage after good pictures.

    Attributes:
        partial: the pictures before the damage, or None when there are none.
    """

    def __init__(self, reason: Reason, message: str, partial: FrameBatch | None) -> None:
        super().__init__(reason, message)
        self.partial = partial


@dataclass(eq=False)
class TimedFrame:
    """One picture: uint8 [H, W, 3] RGB, its sampling instant and its time stamp in seconds from the first picture."""

    picture: np.ndarray
    time: float
    pts: float

    def __repr__(self) -> str:
        shape = list(self.picture.shape)
        return f"TimedFrame(picture={self.picture.dtype}{shape}, time={self.time:.3f}, pts={self.pts:.3f})"


def sample_times(pts_seconds: np.ndarray, duration: float, fps: float | None, start_seconds: float = 0.0) -> np.ndarray:
    """Which pictures are shown at t = 0, 1/fps, 2/fps, ... within the duration.

    Args:
        pts_seconds: float [N], ascending, N >= 1; counted from the first one.
        duration: seconds from the first picture to the end of the last one.
        fps: samples per second, or None for every picture.
        start_seconds: of a clip, where it begins in its video: the clips of a video are sampled at the instants of the
            whole, so that cutting changes no sample.

    Returns:
        int64 [T], ascending indices into ``pts_seconds``; a picture that stays longer than 1/fps is repeated. Sample k
        is taken `first_instant` + k/fps seconds after the first picture. T >= 1 for a clip that begins at 0.

    Raises:
        ValueError: no pictures, or fps not positive.
    """
    if not len(pts_seconds):
        raise ValueError("pts_seconds is empty: a video without pictures has no samples")
    if fps is None:
        return np.arange(len(pts_seconds), dtype=np.int64)
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps is {fps}: give a positive number, or None for every picture")
    first = first_instant(fps, start_seconds)
    count = max(int(start_seconds <= 0), int(np.ceil((duration - _END_TOLERANCE_SECONDS - first) * fps)))
    instants = first + np.arange(count) / fps
    relative = np.asarray(pts_seconds, np.float64) - pts_seconds[0]
    shown = np.searchsorted(relative, instants + _PTS_TOLERANCE_SECONDS, side="right") - 1
    return np.maximum(shown, 0).astype(np.int64)


def first_instant(fps: float, start_seconds: float = 0.0) -> float:
    """Seconds from a clip's first picture to the first instant k/fps of its video that is not the clip's before it."""
    if start_seconds <= 0:
        return 0.0
    return float(np.ceil((start_seconds - _END_TOLERANCE_SECONDS) * fps)) / fps - start_seconds


def decode_frames(
    source: Path | bytes,
    *,
    fps: float | None = 1.0,
    short_side: int | None = None,
    rotate: bool = True,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    plan: DecodingPlan | None = None,
) -> FrameBatch:
    """Decode sampled pictures of a video.

    Args:
        source: a path or the file's bytes.
        fps: samples per second, by time stamp (see `sample_times`), or None for every picture.
        short_side: scale so that the shorter side of the displayed picture has this many pixels, the other side in
            proportion (area averaging when shrinking, bicubic when enlarging); None keeps the size. Pictures that
            change size within the video are scaled to the first one's.
        rotate: apply the rotation and mirroring that the container asks for.
        threads: decoder threads; 0 lets FFmpeg choose.
        limits: largest picture and longest video.
        plan: from `make_plan` for the same source, when the caller has it already.

    Returns:
        The pictures, at least one.

    Raises:
        DataError: no picture to begin with.
        DamagedVideo: (a DataError) damage after good pictures; ``partial`` holds those.
    """
    plan = plan or make_plan(source, limits=limits)
    count = len(sample_times(plan.probe.pts_seconds, plan.probe.duration_seconds, fps))
    frames: np.ndarray | None = None
    times: list[float] = []
    pts: list[float] = []

    def batch() -> FrameBatch | None:
        if frames is None:
            return None
        return FrameBatch(frames[: len(times)], np.asarray(times, np.float64), np.asarray(pts, np.float64))

    try:
        for frame in iter_frames(
            source, fps=fps, short_side=short_side, rotate=rotate, threads=threads, limits=limits, plan=plan
        ):
            if frames is None:
                frames = np.empty((count, *frame.picture.shape), np.uint8)
            frames[len(times)] = frame.picture
            times.append(frame.time)
            pts.append(frame.pts)
    except DataError as error:
        raise DamagedVideo(error.reason, str(error), batch()) from None
    result = batch()
    if result is None:
        raise DataError(Reason.NO_FRAMES, "no picture could be decoded")
    return result


def iter_frames(
    source: Path | bytes,
    *,
    fps: float | None = 1.0,
    short_side: int | None = None,
    rotate: bool = True,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    plan: DecodingPlan | None = None,
    start_seconds: float = 0.0,
) -> Iterator[TimedFrame]:
    """Like `decode_frames`, one picture at a time: memory does not grow with the length of the video.

    Args:
        start_seconds: where a clip begins in its video, see `sample_times`; a short clip may then give no picture.

    Raises:
        DataError: after the last good picture, when the video is damaged or truncated.
    """
    plan = plan or make_plan(source, limits=limits)
    probe = plan.probe
    picks = sample_times(probe.pts_seconds, probe.duration_seconds, fps, start_seconds)
    instants = probe.pts_seconds if fps is None else first_instant(fps, start_seconds) + np.arange(len(picks)) / fps
    convert = _Converter(short_side, plan.orientation if rotate else Orientation())
    done = 0
    held: VideoFrame | None = None
    held_index = -1
    with open_container(source) as container:
        for index, frame in _indexed(container, plan, threads, limits):
            # A pick before this picture was shown by the one before it (the first, when nothing came before).
            while done < len(picks) and picks[done] < index:
                shown, at = (held, held_index) if held is not None else (frame, index)
                yield convert(shown, float(instants[done]), float(probe.pts_seconds[at]))
                done += 1
            held, held_index = frame, index
            while done < len(picks) and picks[done] == index:
                yield convert(frame, float(instants[done]), float(probe.pts_seconds[index]))
                done += 1
            if done == len(picks):
                break
        if plan.damage is not None:
            raise plan.damage
        while held is not None and done < len(picks):  # pictures that the decoder never yields (hidden frames)
            yield convert(held, float(instants[done]), float(probe.pts_seconds[held_index]))
            done += 1


def decode_whole(source: Path | bytes, *, threads: int = 1, limits: Limits = DEFAULT_LIMITS) -> int:
    """Decode every picture and convert none; the number of pictures.

    Raises:
        DataError: something in the video is damaged.
    """
    plan = make_plan(source, limits=limits)
    if plan.damage is not None:
        raise plan.damage
    with open_container(source) as container:
        return sum(1 for _ in _indexed(container, plan, threads, limits))


def _indexed(
    container: InputContainer, plan: DecodingPlan, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    """Decoded pictures with their index in the plan; indices ascend."""
    stream = video_stream(container)
    context = stream.codec_context
    context.thread_type = "AUTO"
    context.thread_count = threads
    bound_pictures(stream, limits)
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


class _Converter:
    """Turns decoded pictures into RGB arrays of one size: swscale applies the video's colour matrix and range."""

    def __init__(self, short_side: int | None, orientation: Orientation) -> None:
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side is {short_side}: give a number of pixels above 0, or None")
        self._short_side = short_side
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._last: tuple[VideoFrame, np.ndarray] | None = None

    def __call__(self, frame: VideoFrame, time: float, pts: float) -> TimedFrame:
        if self._last is None or self._last[0] is not frame:  # a picture may be sampled more than once
            self._last = (frame, self._convert(frame))
        return TimedFrame(self._last[1], time, pts)

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        if self._size is None:
            self._size = _scaled(frame.width, frame.height, self._short_side)
        width, height = self._size
        if (width, height) == (frame.width, frame.height):
            flags = Interpolation.BICUBIC
        else:
            shrinking = width <= frame.width and height <= frame.height
            flags = (Interpolation.AREA if shrinking else Interpolation.BICUBIC) | _EXACT
        rgb = self._reformatter.reformat(
            frame, width=width, height=height, format="rgb24", interpolation=flags, dst_color_range="JPEG", threads=1
        )
        return np.ascontiguousarray(self._orientation.apply(rgb.to_ndarray()))


def _scaled(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    if short_side is None:
        return width, height
    ratio = short_side / min(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))
