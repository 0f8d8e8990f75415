"""Short moments cut from videos, for train_features.py: what is searched when whole videos are found too easily."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from imageio_ffmpeg import get_ffmpeg_exe

from reelkin.core.errors import DataError
from reelkin.shards.sources.inputs import VideoInput
from reelkin.shards.video.isolation import ProbePool

ENCODE = ("-an", "-vf", "scale=trunc(iw/2)*2:trunc(ih/2)*2", "-c:v", "libx264", "-crf", "18", "-pix_fmt", "yuv420p")


def lengths(inputs: Sequence[VideoInput]) -> dict[str, float]:
    """Seconds by video id; what holds no video is left out."""
    with ProbePool(len(os.sched_getaffinity(0))) as pool:
        found = pool.map([(entry.path, entry.bytes) for entry in inputs])
        return {
            entry.video_id: float(facts["duration_seconds"])
            for entry, facts in zip(inputs, found, strict=True)
            if not isinstance(facts, DataError)
        }


def cut_moments(
    inputs: Sequence[VideoInput], groups: Mapping[str, str], folder: Path, *, seconds: float, most: int
) -> dict[str, str]:
    """Cut the longest video of each group into moments that do not overlap, evenly spread over it.

    The longest only: a near-duplicate holds the same moments again, and nobody has written down where. A video shorter
    than a moment is one moment. What was cut already is left as it is.

    Args:
        inputs: the videos.
        groups: what shows the same thing, by video id.
        folder: where moments are written, as ``ID-at-NN.mp4``.
        seconds: length of a moment.
        most: moments of one video.

    Returns:
        The group of each moment, by the moment's id.
    """
    seconds_of = lengths(inputs)
    path_of = {entry.video_id: entry.path for entry in inputs}
    longest: dict[str, str] = {}
    for video_id in sorted(seconds_of, key=lambda each: (-seconds_of[each], each)):
        longest.setdefault(groups[video_id], video_id)
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for group, video_id in sorted(longest.items()):
        count = max(1, min(most, int(seconds_of[video_id] / seconds)))
        apart = (seconds_of[video_id] - seconds) / max(1, count - 1)
        for number in range(count):
            moment = f"{Path(path_of[video_id]).stem}-at-{number:02d}"
            made[moment] = group
            _cut(path_of[video_id], folder / f"{moment}.mp4", number * apart if count > 1 else 0.0, seconds)
    return made


def _cut(source: str, target: Path, begin: float, seconds: float) -> None:
    if target.exists():
        return
    half = target.with_suffix(".part.mp4")
    line = [get_ffmpeg_exe(), "-nostdin", "-v", "error", "-y", "-ss", f"{begin:.3f}", "-i", source, "-t", f"{seconds}"]
    subprocess.run([*line, *ENCODE, str(half)], check=True, timeout=300)
    half.rename(target)
