"""Small videos for tests, good ones and bad ones, made with PyAV alone (none of the package's own code).

A picture of the "counter" pattern carries its number in 12 bars, so a test can read from a decoded picture which one it
is; "corners" is different in each corner, for orientation; "plain" is one colour; "noise" is hard to compress.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

REAL_VIDEOS = Path(__file__).resolve().parents[3] / "shared" / "videos"
"""Real clips beside the repository, if they are there."""

_BITS = 12
_PTS_PER_SECOND = 90000


def picture(number: int, size: tuple[int, int] = (96, 64), pattern: str = "counter", seed: int = 0) -> np.ndarray:
    """One picture, uint8 [height, width, 3]; ``size`` is (width, height)."""
    width, height = size
    frame = np.zeros((height, width, 3), np.uint8)
    if pattern == "counter":
        edges = np.linspace(0, width, _BITS + 1).astype(int)
        for bit in range(_BITS):
            frame[:, edges[bit] : edges[bit + 1]] = 225 if number >> bit & 1 else 30
    elif pattern == "corners":
        frame[: height // 2, : width // 2] = (220, 30, 30)
        frame[: height // 2, width // 2 :] = (30, 220, 30)
        frame[height // 2 :, : width // 2] = (30, 30, 220)
        frame[height // 2 :, width // 2 :] = (220, 220, 220)
    elif pattern == "noise":
        frame[:] = np.random.default_rng((seed, number)).integers(0, 256, frame.shape)
    else:
        rng = np.random.default_rng((seed, 1))
        frame[:] = rng.integers(40, 216, 3)
    return frame


def read_counter(frame: np.ndarray) -> int:
    """Number of a decoded "counter" picture, uint8 [H, W, 3] of any size."""
    edges = np.linspace(0, frame.shape[1], _BITS + 1)
    middle = ((edges[:-1] + edges[1:]) / 2).astype(int)
    row = frame[frame.shape[0] // 2, :, 1]
    return sum(1 << bit for bit in range(_BITS) if row[middle[bit]] > 127)


def make_video(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: float = 10,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pattern: str = "counter",
    pix_fmt: str = "yuv420p",
    times: Sequence[float] | None = None,
    gop: int = 12,
    options: dict[str, str] | None = None,
    container: str | None = None,
    container_options: dict[str, str] | None = None,
    sound_seconds: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write a video; its container follows the file's extension unless given.

    Args:
        times: time stamps of the pictures in seconds (variable frame rate); default ``seconds * fps`` regular ones.
        sound_seconds: length of a sound track; 0 for none.
    """
    rate = Fraction(fps).limit_denominator(1001)
    stamps = [n / rate for n in range(max(1, round(seconds * fps)))] if times is None else [Fraction(t) for t in times]
    settings = {"g": str(gop), **({"x265-params": "log-level=none"} if codec == "libx265" else {}), **(options or {})}
    with av.open(str(path), "w", format=container, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=rate, options=settings)
        stream.width, stream.height = size
        stream.pix_fmt = pix_fmt
        stream.codec_context.thread_count = 1
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, _PTS_PER_SECOND)
        sound = out.add_stream("aac", rate=16000) if sound_seconds else None
        base = stream.codec_context.time_base or 1 / rate
        for number, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(picture(number, size, pattern, seed), format="rgb24")
            frame.pts, frame.time_base = round(stamp / base), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
        if sound is not None:
            _add_sound(out, sound, sound_seconds)
    return path


def _add_sound(out: av.container.OutputContainer, stream: av.AudioStream, seconds: float) -> None:
    for number in range(int(seconds * 16000 / 1024)):
        tone = np.sin(np.arange(1024) * 0.2 + number).astype(np.float32)[None] * 0.2
        frame = av.AudioFrame.from_ndarray(tone, format="fltp", layout="mono")
        frame.rate, frame.pts, frame.time_base = 16000, number * 1024, Fraction(1, 16000)
        out.mux(stream.encode(frame))
    out.mux(stream.encode())


def make_faststart(path: Path, **settings: object) -> Path:
    """An MP4 whose index stands before the pictures, as downloads have it."""
    return make_video(path, container_options={"movflags": "faststart"}, **settings)  # type: ignore[arg-type]


def make_truncated(path: Path, source: Path | None = None, keep: float = 0.5) -> Path:
    """The first part of ``source``; by default of an MP4 with its index in front, which demuxers read to the end."""
    if source is None:
        source = make_faststart(path.with_name(path.name + ".whole.mp4"), seconds=4, pattern="noise")
        data = source.read_bytes()
        source.unlink()
    else:
        data = source.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def make_damaged(path: Path, source: Path, *, start: float = 0.4, seed: int = 0, count: int = 40) -> Path:
    """``source`` with bytes overwritten at random places between the share ``start`` of it and its last tenth."""
    data = bytearray(source.read_bytes())
    rng = np.random.default_rng(seed)
    for position in rng.integers(int(len(data) * start), int(len(data) * 0.9), count):
        data[position] ^= 0xFF
    path.write_bytes(data)
    return path


def make_audio_only(path: Path, seconds: float = 1.0) -> Path:
    """A container with a sound track only; MP4 unless the extension says otherwise."""
    with av.open(str(path), "w") as out:
        _add_sound(out, out.add_stream("aac", rate=16000), seconds)
    return path


def make_text(path: Path) -> Path:
    """A text file, whatever it is called."""
    path.write_text("This is not a video, although its name says so.\n" * 40)
    return path


def make_empty(path: Path) -> Path:
    """No bytes."""
    path.write_bytes(b"")
    return path


def make_ffconcat(path: Path, target: Path) -> Path:
    """A concatenation list that names another file: read blindly, its pictures are the other file's."""
    path.write_text(f"ffconcat version 1.0\nfile '{target.name}'\n")
    return path


def make_playlist(path: Path, target: Path) -> Path:
    """An HLS playlist that names another file."""
    path.write_text(f"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:2.0,\nfile://{target.resolve()}\n#EXT-X-ENDLIST\n")
    return path


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write a display matrix into an MP4's first track header: stored (x, y) is shown at (a*x + c*y, b*x + d*y)."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd") + 4
    start = header + (40 if data[header] == 0 else 52)
    one = 1 << 16
    data[start : start + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def decode_all(path: Path) -> list[av.VideoFrame]:
    """Every picture of the first video stream by the plain way of PyAV: the reference for what can be decoded."""
    with av.open(str(path)) as container:
        return list(container.decode(video=0))
