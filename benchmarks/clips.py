"""Video clips for the benchmarks: moving test pictures with some noise, encoded as usual web video is, by ffmpeg."""

from __future__ import annotations

import subprocess
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

H264 = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-pix_fmt", "yuv420p")


def make_clip(
    path: Path, *, seconds: float, size: str = "854x480", rate: int = 25, gop: int = 150, seed: int = 1
) -> Path:
    """A H.264 clip of a size such as "854x480", a keyframe every ``gop`` pictures; the seed is the noise's."""
    source = f"testsrc2=size={size}:rate={rate}:duration={seconds},noise=alls=8:allf=t:all_seed={seed}"
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-f", "lavfi", "-i", source, *H264, "-g", str(gop)]
    subprocess.run([*line, str(path)], check=True, timeout=300)
    return path
