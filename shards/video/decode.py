"""Pictures of a video on the CPU, chosen by the time at which they are shown.

Frame ``t`` of a sample at 1 fps is the picture that a viewer sees at second ``t``: the last one whose time stamp is not
later, counted from the first picture. Every video gives at least one. Other choices are in ``sampling.py``. Only chosen
pictures are converted to RGB, what they do not need is not decoded where that is known to change nothing
(``pictures.py``), and never more than one decoder's worth of others is held.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from av.video.frame import VideoFrame

from ...core.errors import DataError, Reason
from .container import Limits, open_container
from .conversion import Converter, Scaling
from .conversion import scaled_size as scaled_size
from .orientation import Orientation
from .pictures import all_pictures, shorter_way
from .probe import DEFAULT_LIMITS, DecodingPlan, make_plan
from .sampling import Samples, Sampling, choose


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
        DataError: after the last good picture, when the video is damaged or truncated. Damage in pictures that are not
            decoded is not seen, see `pictures.shorter_way`.
    """
    convert = Converter(short_side, scaling, plan.orientation if rotate else Orientation())
    last: VideoFrame | None = None
    shown = _shown(source, plan, samples, threads, limits)  # first in zip: it may raise after its last picture
    for (index, frame), time in zip(shown, samples.times, strict=False):
        if frame is not last:  # a picture may be sampled more than once
            picture, last = convert(frame), frame
        yield TimedFrame(picture, float(time), float(plan.probe.pts_seconds[index]))


def _shown(
    source: Path | bytes, plan: DecodingPlan, samples: Samples, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    """For each sample the picture that is shown, and its index."""
    picks, done = samples.indices, 0
    wanted = np.unique(picks)
    way = shorter_way(plan, wanted, keyframes_only=samples.keyframes_only)
    if way is not None:
        with open_container(source) as container:
            for index, frame in way(container, plan, wanted, threads, limits):
                while done < len(picks) and picks[done] == index:
                    yield index, frame
                    done += 1
    if done < len(picks):
        yield from _shown_of_all(source, plan, picks[done:], threads, limits)
    elif plan.damage is not None:
        raise plan.damage


def _shown_of_all(
    source: Path | bytes, plan: DecodingPlan, picks: np.ndarray, threads: int, limits: Limits
) -> Iterator[tuple[int, VideoFrame]]:
    """Like `_shown`, from the decoder that takes everything."""
    done = 0
    held: VideoFrame | None = None
    held_index = -1
    with open_container(source) as container:
        for index, frame in all_pictures(container, plan, threads, limits):
            # A pick before this picture was shown by the one before it (the first, when nothing came before).
            while done < len(picks) and picks[done] < index:
                yield (held_index, held) if held is not None else (index, frame)
                done += 1
            held, held_index = frame, index
            while done < len(picks) and picks[done] == index:
                yield index, frame
                done += 1
            if done == len(picks):
                break
        if plan.damage is not None:
            raise plan.damage
        while held is not None and done < len(picks):  # pictures that the decoder never yields (hidden frames)
            yield held_index, held
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
        return sum(1 for _ in all_pictures(container, plan, threads, limits))
