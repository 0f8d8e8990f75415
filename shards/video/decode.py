"""Pictures of a video on the CPU, chosen by the time at which they are shown.

Frame ``t`` of a sample at 1 fps is the picture that a viewer sees at second ``t``: the last one whose time stamp is not
later, counted from the first picture. Every video gives at least one. Only chosen pictures are converted to RGB, and
never more than one decoder's worth of others is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
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
from .legacy_scaling import resize_cubic
from .orientation import Orientation
from .probe import DEFAULT_LIMITS, DecodingPlan, make_plan
from .sampling import Samples, Sampling, choose

Scaling = Literal["area", "tca"]

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
        fps: samples per second, by time stamp (see `sampling.sample_times`), or None for every picture.
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
    samples = choose(plan, Sampling("all") if fps is None else Sampling("times", fps))
    frames: np.ndarray | None = None
    times: list[float] = []
    pts: list[float] = []

    def batch() -> FrameBatch | None:
        if frames is None:
            return None
        return FrameBatch(frames[: len(times)], np.asarray(times, np.float64), np.asarray(pts, np.float64))

    try:
        for frame in iter_frames(
            source, plan=plan, samples=samples, short_side=short_side, threads=threads, limits=limits, rotate=rotate
        ):
            if frames is None:
                frames = np.empty((len(samples), *frame.picture.shape), np.uint8)
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
    plan: DecodingPlan,
    samples: Samples,
    short_side: int | None = None,
    scaling: Scaling = "area",
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    rotate: bool = True,
) -> Iterator[TimedFrame]:
    """Decode chosen pictures one at a time: memory does not grow with the length of the video.

    Args:
        source: a path or the file's bytes.
        plan: from `make_plan` for the same source.
        samples: from `sampling.choose` for this plan.
        short_side, threads, limits, rotate: see `decode_frames`.
        scaling: "area", see `decode_frames`; "tca", what TCA's published code does with OpenCV: bicubic (a = -0.75)
            without low-pass filter on RGB pictures of full size, colours by BT.601 whatever the video says.

    Yields:
        A frame for each sample, in order; the samples of one picture share its array.

    Raises:
        DataError: after the last good picture, when the video is damaged or truncated.
    """
    probe = plan.probe
    picks, instants = samples.indices, samples.times
    convert = _Converter(short_side, scaling, plan.orientation if rotate else Orientation())
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

    def __init__(self, short_side: int | None, scaling: Scaling, orientation: Orientation) -> None:
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side is {short_side}: give a number of pixels above 0, or None")
        self._short_side = short_side
        self._scaling = scaling
        self._orientation = orientation
        self._reformatter = VideoReformatter()
        self._size: tuple[int, int] | None = None
        self._last: tuple[VideoFrame, np.ndarray] | None = None

    def __call__(self, frame: VideoFrame, time: float, pts: float) -> TimedFrame:
        if self._last is None or self._last[0] is not frame:  # a picture may be sampled more than once
            self._last = (frame, self._convert(frame))
        return TimedFrame(self._last[1], time, pts)

    def _convert(self, frame: VideoFrame) -> np.ndarray:
        legacy = self._scaling == "tca"
        if self._size is None:
            self._size = scaled_size(frame.width, frame.height, None if legacy else self._short_side)
        width, height = self._size
        if (width, height) == (frame.width, frame.height):
            layout, flags = "rgb24", Interpolation.BICUBIC
        else:
            # The same numbers as rgb24, which swscale computes five times as slowly: without vector instructions.
            layout = "gbrp"
            shrinking = width <= frame.width and height <= frame.height
            flags = (Interpolation.AREA if shrinking else Interpolation.BICUBIC) | _EXACT
        # OpenCV up to version 4 leaves swscale at its default; None: as the video says.
        matrix = Colorspace.ITU601 if legacy else None
        rgb = self._reformatter.reformat(
            frame,
            width=width,
            height=height,
            format=layout,
            interpolation=flags,
            dst_color_range="JPEG",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            threads=1,
        )
        picture = self._orientation.apply(rgb.to_ndarray())
        if legacy and self._short_side is not None:
            return resize_cubic(picture, self._short_side)
        return np.ascontiguousarray(picture)


def scaled_size(width: int, height: int, short_side: int | None) -> tuple[int, int]:
    """(width, height) of a picture whose shorter side is scaled to ``short_side`` pixels; None keeps the size."""
    if short_side is None:
        return width, height
    ratio = short_side / min(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))
