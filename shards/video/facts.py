"""The facts of a video for its row in the tables, without reading more of the file than is needed.

`probe.probe` goes through all packets. An MP4 file has an index of them, and where nothing in it is hidden or lies
beyond the end of the file, the first picture, the packets behind it and the last group of pictures settle the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av.error
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ...core.errors import DataError
from .container import Limits, bound_pictures, extension_of, open_bytes, open_container, video_stream
from .orientation import Orientation
from .probe import probe
from .structure import is_whole_mp4

_REORDERED = 17  # no codec shows a picture earlier by more than so many
_LONGEST_GROUP = 1000  # reading a longer last group of pictures is no gain
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
            # The picture is looked at for what it is, not for its pixels.
            stream.codec_context.options = {**stream.codec_context.options, "skip_loop_filter": "all"}
            rows = _index(stream, size)
            first = _first_picture(container, stream) if rows else None
            if first is None or first.pts is None:
                return None
            limits.check_size(first.width, first.height)
            end = _end(container, stream, rows)
            if end is None:
                return None
            unit = float(stream.time_base or 0)
            duration = (end[0] - first.pts) * unit + end[1] * unit  # rounded like the sum in `probe`
            if not 0 < end[1] * unit <= _LONGEST_PICTURE_SECONDS or not 0 < duration <= limits.max_seconds:
                return None
            return {
                "container": extension_of(container, source),
                "codec": stream.codec_context.codec.canonical_name,
                "pix_fmt": first.format.name,
                "width": first.width,
                "height": first.height,
                "rotation": Orientation.of(first).degrees,
                "fps": round(len(rows) / duration, 6),
                "num_frames": len(rows),
                "duration_seconds": round(duration, 6),
            }
    except (DataError, av.error.FFmpegError, OSError, MemoryError):
        return None


def _index(stream: VideoStream, size: int) -> list[Any]:
    """The entries of the index in the order of decoding; none when one is hidden, empty, or beyond the file's end."""
    rows = list(stream.index_entries)  # every access by number makes a new object
    for row in rows:
        if row.is_discard or row.size <= 0 or row.pos < 0 or row.pos + row.size > size:
            return []
    return rows


def _end(container: InputContainer, stream: VideoStream, rows: list[Any]) -> tuple[int, int] | None:
    """Time and duration of the picture that is shown last, in the stream's unit; the last group of pictures has it."""
    count = next((n for n, row in enumerate(reversed(rows), 1) if row.is_keyframe), len(rows))
    if count > _LONGEST_GROUP:
        return None
    container.seek(rows[-1].timestamp, stream=stream)
    times = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and p.pts is not None]
    return max(times) if len(times) == count else None


def _first_picture(container: InputContainer, stream: VideoStream) -> VideoFrame | None:
    """The first picture, when it comes clean and is shown before those behind it."""
    stream.codec_context.thread_count = 1
    frame: VideoFrame | None = None
    for number, packet in enumerate(container.demux(stream)):
        if packet.is_corrupt or packet.is_discard or (packet.size and packet.pts is None):
            return None
        if frame is None:
            # Asked for all it has, a decoder does not wait for pictures that might come before.
            frame = next(iter(packet.decode() or stream.decode(None)), None)
            if frame is None or frame.is_corrupt or frame.pts is None:
                return None
        elif packet.pts is not None and frame.pts is not None and packet.pts < frame.pts:
            return None
        if number > _REORDERED:
            break
    return frame
