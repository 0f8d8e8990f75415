"""The facts of a video for its row in the tables, without reading more of the file than is needed.

`probe.probe` goes through all packets. An MP4 file has an index of them, and where that index is regular (constant
frame rate, nothing hidden, nothing beyond the end of the file) it says the same: then only the first picture is read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...core.errors import DataError
from .container import Limits, bound_pictures, extension_of, open_bytes, open_container, video_stream
from .orientation import Orientation
from .probe import probe
from .structure import is_whole_mp4

_LONGEST_PICTURE_SECONDS = 10.0  # longer ones are judged by `probe`


def facts_of(source: Path, limits: Limits) -> dict[str, Any]:
    """`Probe.facts` of a video file.

    Raises:
        DataError: as `probe.probe`.
    """
    return _facts_from_index(source, limits) or probe(source, limits=limits).facts()


def _facts_from_index(source: Path, limits: Limits) -> dict[str, Any] | None:
    """The facts, or None when the index does not settle them (also for whatever is wrong with the file)."""
    try:
        file, size = open_bytes(source)
        with file:
            if not is_whole_mp4(file, size):
                return None
        with open_container(source) as container:
            stream = video_stream(container)
            limits.check_size(stream.codec_context.width, stream.codec_context.height)
            bound_pictures(stream, limits)
            step = _regular_step(stream, size)
            first = _first_picture(container, stream) if step else None
            if step is None or first is None:
                return None
            limits.check_size(first.width, first.height)
            count, unit = len(stream.index_entries), float(stream.time_base or 0)
            duration = (count - 1) * step * unit + step * unit  # rounded like the sum in `probe`
            if not 0 < step * unit <= _LONGEST_PICTURE_SECONDS or duration > limits.max_seconds:
                return None
            return {
                "container": extension_of(container, source),
                "codec": stream.codec_context.codec.canonical_name,
                "pix_fmt": first.format.name,
                "width": first.width,
                "height": first.height,
                "rotation": Orientation.of(first).degrees,
                "fps": round(count / duration, 6),
                "num_frames": count,
                "duration_seconds": round(duration, 6),
            }
    except (DataError, av.error.FFmpegError, OSError, MemoryError):
        return None


def _regular_step(stream: VideoStream, size: int) -> int | None:
    """Time from one picture to the next in the stream's unit, or None when the index is not regular."""
    entries = stream.index_entries
    if len(entries) < 2:
        return None
    rows = list(entries)  # every access by number makes a new object
    times, places, sizes = (
        np.array([getattr(row, name) for row in rows], np.int64) for name in ("timestamp", "pos", "size")
    )
    hidden = any(row.is_discard for row in rows)
    steps = np.diff(times)
    step = int(steps[0])
    whole = (places >= 0).all() and (sizes > 0).all() and (places + sizes <= size).all()
    if step <= 0 or not (steps == step).all() or hidden or not whole:
        return None
    # The presentation times are the decoding times in another order: then the track is as long as its pictures.
    if stream.duration is None or abs(stream.duration - len(entries) * step) > step:
        return None
    return step


def _first_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """The first picture, when it comes clean and is shown before all others that were read with it."""
    stream.codec_context.thread_count = 1
    times: list[int] = []
    for packet in container.demux(stream):
        if packet.is_corrupt or packet.is_discard:
            return None
        if packet.size:
            if packet.pts is None:
                return None
            times.append(packet.pts)
        for frame in packet.decode():
            clean = not frame.is_corrupt and frame.pts is not None and frame.pts == min(times)
            return frame if clean else None
    return None
