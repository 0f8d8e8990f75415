"""Writing video files with PyAV: the same pictures give the same bytes, and a file appears whole or not at all.

Pictures are stored as 8-bit 4:2:0, which every decoder takes, the hardware ones too. That needs an even width and
height: the last column or row of an odd picture is stored twice. Sound is not written.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...core.errors import ReelkinError, UsageError
from ...core.files import publishing

if TYPE_CHECKING:
    import av.container

MUXERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi"}
"""File suffix -> FFmpeg's name of the container format."""

ITU_R_BT_601 = 6  # FFmpeg's AVCOL_*_SMPTE170M: the matrix, primaries and transfer that swscale uses when untold
LIMITED_RANGE, FULL_RANGE = 1, 2  # AVCOL_RANGE_MPEG, AVCOL_RANGE_JPEG
LAMBDA_PER_QUANTISER = 118  # FF_QP2LAMBDA: what FFmpeg multiplies a fixed quantiser by


@dataclass(frozen=True)
class Encoder:
    """How one encoder is asked for a constant quality."""

    best: int
    worst: int
    default: int
    """Ends and default of the quality scale; lower is better."""
    preset_option: str | None
    """The encoder's own option that trades time for size."""
    default_preset: str
    options: tuple[tuple[str, str], ...] = ()
    fixed_quantiser: bool = False
    """True when quality is set by a quantiser (the MPEG-4 family) rather than by the option ``crf``."""
    pix_fmt: str = "yuv420p"
    suffixes: tuple[str, ...] = tuple(MUXERS)


_MP4_LIKE = (".mp4", ".mov", ".mkv")
ENCODERS: dict[str, Encoder] = {
    # cpu-independent: without it the bytes depend on the processor and, in about one file of three, on where the
    # memory happened to be allocated (measured with PyAV 18.1). AVI has no way to tell the order of B-pictures.
    "libx264": Encoder(0, 51, 23, "preset", "veryfast", (("x264-params", "cpu-independent=1"),), suffixes=_MP4_LIKE),
    # frame-threads=1 and no pool: x265's rate control depends on its threads otherwise.
    "libx265": Encoder(
        0,
        51,
        28,
        "preset",
        "ultrafast",
        (("x265-params", "log-level=none:pools=none:frame-threads=1:info=0"), ("tag", "hvc1")),
        suffixes=_MP4_LIKE,
    ),
    "libvpx": Encoder(4, 63, 20, "cpu-used", "8", (("deadline", "realtime"),), suffixes=(".webm", ".mkv")),
    "libvpx-vp9": Encoder(0, 63, 34, "cpu-used", "8", (("deadline", "realtime"),), suffixes=(".webm", ".mkv", ".mp4")),
    "mpeg4": Encoder(1, 31, 4, None, "", fixed_quantiser=True, suffixes=(*_MP4_LIKE, ".avi")),
    "mpeg2video": Encoder(1, 31, 4, None, "", fixed_quantiser=True, suffixes=_MP4_LIKE),
    "mjpeg": Encoder(1, 31, 3, None, "", fixed_quantiser=True, pix_fmt="yuvj420p", suffixes=(*_MP4_LIKE, ".avi")),
}
"""Encoders that PyAV's own FFmpeg carries, by FFmpeg's name."""


class VideoWriter:
    """Write RGB pictures at a constant rate into one video file.

    Use it as a context manager; the file is published when the body ends without an error::

        with VideoWriter("copy.mp4", 320, 240, fps=12) as writer:
            writer.write(frame)

    Args:
        path: where the file goes; the suffix names the container (.mp4, .mov, .mkv, .webm, .avi).
        width, height: size of the pictures that will be written, in pixels; odd ones are stored one pixel larger.
        fps: pictures per second, a number or a fraction.
        codec: a key of `ENCODERS`.
        crf: quality, lower is better. libx264, libx265: 0 to 51; libvpx: 4 to 63; libvpx-vp9: 0 to 63; mpeg4,
            mpeg2video, mjpeg: a fixed quantiser, 1 to 31. Default: the encoder's usual value.
        preset: libx264, libx265: preset name ("ultrafast" to "veryslow"); libvpx, libvpx-vp9: "cpu-used", "0" to "8".
        keyframe_every: pictures from one keyframe to the next, at most; default: the encoder's own choice.

    Attributes:
        num_frames: pictures written so far.
        stored_width, stored_height: size in the file.

    Raises:
        UsageError: an argument is out of its range, or the container cannot hold the codec.
        ReelkinError: the file cannot be written, or nothing was written into it.
    """

    def __init__(
        self,
        path: str | Path,
        width: int,
        height: int,
        fps: float | Fraction,
        codec: str = "libx264",
        crf: int | None = None,
        preset: str | None = None,
        *,
        keyframe_every: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.encoder = _checked_encoder(self.path, codec, crf, preset)
        if width < 1 or height < 1:
            raise UsageError(f"cannot write a picture of {width}x{height}; width and height must be at least 1")
        if not 0 < fps <= 1000:
            raise UsageError(f"fps is {fps}; it must be above 0 and at most 1000")
        self.width, self.height = width, height
        self.stored_width, self.stored_height = width + width % 2, height + height % 2
        # MPEG-4 stores a rate's parts in 16 bits; every usual rate (30000/1001) fits.
        self.fps = Fraction(fps).limit_denominator(1001)
        self.codec, self.crf, self.preset = codec, crf, preset
        self.keyframe_every = keyframe_every
        self.num_frames = 0
        self._publishing: AbstractContextManager[Path] | None = None
        self._container: av.container.OutputContainer | None = None
        self._stream: Any = None
        self._converter: Any = None

    def __enter__(self) -> Self:
        self._publishing = publishing(self.path)
        temporary = self._publishing.__enter__()
        try:
            self._open(temporary)
        except BaseException as error:
            self._close_container()
            self._publishing.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def write(self, frame: np.ndarray) -> None:
        """Append one picture.

        Args:
            frame: uint8 [height, width, 3], RGB.
        """
        import av

        if self._container is None:
            raise ReelkinError(f"{self.path} is not open; write inside `with VideoWriter(...) as writer:`")
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise ValueError(
                f"expected a uint8 picture of shape {(self.height, self.width, 3)}, got {frame.dtype} {frame.shape}"
            )
        if (self.stored_height, self.stored_width) != frame.shape[:2]:
            frame = np.pad(frame, ((0, self.height % 2), (0, self.width % 2), (0, 0)), mode="edge")
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # One converter for all pictures, without threads: a new one for each costs more than the conversion.
        picture = self._converter.reformat(picture, format=self.encoder.pix_fmt, threads=1)
        picture.pts, picture.time_base = self.num_frames, 1 / self.fps
        self._container.mux(self._stream.encode(picture))
        self.num_frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._publishing is not None and self._container is not None
        try:
            if error is None:
                if self.num_frames == 0:
                    raise ReelkinError(f"no picture was written into {self.path}; a video needs at least one")
                self._container.mux(self._stream.encode(None))
            self._close_container()
        except BaseException as own:
            self._publishing.__exit__(type(own), own, own.__traceback__)
            raise
        self._publishing.__exit__(kind, error, trace)

    def _open(self, temporary: Path) -> None:
        import av

        muxer = MUXERS[self.path.suffix.lower()]
        self._converter = av.video.reformatter.VideoReformatter()
        # bitexact: no version strings and no dates in the file.
        self._container = av.open(str(temporary), "w", format=muxer, options={"fflags": "+bitexact"})
        options = dict(self.encoder.options)
        quality = self.encoder.default if self.crf is None else self.crf
        if self.encoder.preset_option:
            options[self.encoder.preset_option] = self.preset or self.encoder.default_preset
        if not self.encoder.fixed_quantiser:
            options["crf"] = str(quality)
        tag = options.pop("tag", None)
        stream: Any = self._container.add_stream(self.codec, rate=self.fps, options=options)
        self._stream = stream
        stream.width, stream.height = self.stored_width, self.stored_height
        stream.pix_fmt = self.encoder.pix_fmt
        stream.time_base = 1 / self.fps
        context = stream.codec_context
        context.thread_count = 1
        context.flags |= av.codec.context.Flags.bitexact.value
        context.colorspace = context.color_primaries = context.color_trc = ITU_R_BT_601
        context.color_range = FULL_RANGE if self.encoder.pix_fmt.startswith("yuvj") else LIMITED_RANGE
        if self.encoder.fixed_quantiser:
            context.flags |= av.codec.context.Flags.qscale.value
            context.global_quality = quality * LAMBDA_PER_QUANTISER
        elif self.codec == "libvpx":
            context.bit_rate = 8_000_000  # VP8 reads crf as a floor under this rate; 0 would mean 200 kb/s
        else:
            context.bit_rate = 0
        if self.keyframe_every is not None:
            context.gop_size = self.keyframe_every
        if tag is not None:
            context.codec_tag = tag

    def _close_container(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None


def _checked_encoder(path: Path, codec: str, crf: int | None, preset: str | None) -> Encoder:
    if codec not in ENCODERS:
        raise UsageError(f"codec is {codec!r}; choose one of {', '.join(ENCODERS)}")
    encoder = ENCODERS[codec]
    if path.suffix.lower() not in encoder.suffixes:
        raise UsageError(f"{path.name}: {codec} is written into {', '.join(encoder.suffixes)}; change the suffix")
    if crf is not None and not encoder.best <= crf <= encoder.worst:
        raise UsageError(f"crf is {crf}; {codec} takes {encoder.best} (best) to {encoder.worst}")
    if preset is not None and encoder.preset_option is None:
        raise UsageError(f"preset is {preset!r}, but {codec} has no presets; leave it out")
    return encoder
