"""Small whole videos of many formats, made by the ffmpeg of imageio-ffmpeg: what the hostile corpus is derived from.

All of them show the same 20 pictures at 10 a second, 64x48 pixels where the codec allows, so a file that was damaged is
known to be whole when 20 pictures come out of it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg

NUM_PICTURES = 20
SOURCE = "testsrc2=size=64x48:rate=10:duration=2,noise=alls=10:all_seed=7"
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "8", "-bf", "2", "-pix_fmt", "yuv420p")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none:pools=1:frame-threads=1")
VPX = ("-deadline", "realtime", "-cpu-used", "8", "-g", "8", "-b:v", "200k")

_MPEG2 = ("-c:v", "mpeg2video", "-r", "25", "-q:v", "4", "-frames:v", str(NUM_PICTURES))
_BASES: dict[str, tuple[str, ...]] = {
    "front.mp4": (*X264, "-movflags", "+faststart"),
    "end.mp4": X264,
    "parts.mp4": (*X264, "-movflags", "+frag_keyframe+empty_moov"),
    "still.mov": ("-c:v", "mjpeg", "-q:v", "6", "-pix_fmt", "yuvj420p"),
    "hevc.mp4": X265,
    "h264.mkv": X264,
    "vp9.webm": ("-c:v", "libvpx-vp9", *VPX),
    "vp8.webm": ("-c:v", "libvpx", *VPX),
    "ffv1.mkv": ("-c:v", "ffv1"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-q:v", "4", "-bf", "2"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "6", "-pix_fmt", "yuvj420p"),
    "h264.ts": X264,
    "mpeg2.mpg": (*_MPEG2, "-bf", "2"),
    "picture.gif": ("-pix_fmt", "rgb8"),
    "flash.flv": X264,
    "sorenson.flv": ("-c:v", "flv", "-q:v", "4"),
    "media.wmv": ("-c:v", "wmv2", "-q:v", "4"),
    "theora.ogv": ("-c:v", "libtheora", "-q:v", "6"),
    "moving.apng": ("-plays", "0"),
    "vp8.ivf": ("-c:v", "libvpx", *VPX),
    "raw.h264": X264,
    "raw.y4m": ("-pix_fmt", "yuv420p", "-strict", "-1"),
    "mpeg4.nut": ("-c:v", "mpeg4", "-q:v", "4"),
    "real.rm": ("-c:v", "rv20", "-q:v", "4"),
    "mpeg2.mxf": (*_MPEG2, "-s", "64x48"),
    "phone.3gp": ("-c:v", "h263", "-s", "128x96"),
}
FORMATS = tuple(_BASES)
"""Names of all whole videos."""


def ffmpeg(*arguments: str | Path) -> None:
    """Run ffmpeg; its output does not depend on the time or on the machine's cores."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, timeout=120, stdin=subprocess.DEVNULL)


def encode(path: Path, *options: str, source: str = SOURCE, inputs: Sequence[str | Path] = ()) -> Path:
    """Write ``path`` from an ffmpeg source filter, with further inputs and output options."""
    exact = ("-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1")
    ffmpeg("-filter_threads", "1", "-f", "lavfi", "-i", source, *inputs, *exact, *options, path)
    return path


class Bases:
    """The whole videos, each made when it is first asked for.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, name: str) -> Path:
        """The file; treat as read-only."""
        path = self.folder / name
        if not path.exists():
            encode(path, *_BASES[name])
        return path

    def data(self, name: str) -> bytes:
        """Its bytes."""
        return self.path(name).read_bytes()
