"""A second opinion on what can be decoded: ffmpeg itself, of another build and version than the PyAV in use."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg

from reelkin.shards.video.container import CONTAINERS


@dataclass(frozen=True)
class Opinion:
    """What ffmpeg made of a file.

    Attributes:
        clean: it found nothing to complain about.
        pictures: how many came out of the first video stream that is no cover art.
        complaint: the first lines of what it said.
    """

    clean: bool
    pictures: int
    complaint: str


def ask_ffmpeg(path: Path, *, seconds: float = 60.0) -> Opinion:
    """Decode a whole file, ending at the first error; the same containers are allowed as in the package."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-nostdin", "-v", "error", "-xerror", "-threads", "1"]
    command += ["-format_whitelist", ",".join(CONTAINERS), "-protocol_whitelist", "file", "-i", f"file:{path}"]
    command += ["-map", "0:V:0", "-fps_mode", "passthrough", "-progress", "pipe:1", "-f", "null", "-"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return Opinion(False, 0, f"no end within {seconds} seconds")
    counts = [line.removeprefix(b"frame=") for line in done.stdout.splitlines() if line.startswith(b"frame=")]
    complaint = done.stderr.decode("utf-8", "backslashreplace").strip()[:400]
    return Opinion(done.returncode == 0, int(counts[-1]) if counts else 0, complaint)
