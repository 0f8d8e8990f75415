"""Decoding ahead: threads turn clips into cropped frames while the encoder computes.

PyAV releases Python's lock while it decodes, so threads are enough. Clips come out in the order they went in, each in
chunks through a bounded queue of its own: memory depends on the number of threads, not on the length of a video.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..core.errors import DataError, Reason
from ..shards.video.decode import iter_frames
from ..shards.video.probe import make_plan
from ..shards.video.sampling import Sampling, choose
from .frames import Preprocessing, crop_frames

CHUNKS_AHEAD = 4
"""Chunks that a clip may be ahead of the encoder."""

log = logging.getLogger("reelkin.extract")

Pick = Callable[[str, int], np.ndarray]
"""Which of a clip's T sampled frames are wanted: (key, T) -> ascending indices."""


@dataclass(frozen=True)
class Source:
    """A clip to decode: its key, a path or the file's bytes, and where in its video it begins, seconds."""

    key: str
    data: Path | bytes
    start_seconds: float = 0.0


@dataclass(frozen=True)
class Chunk:
    """Some consecutive frames of a clip.

    Attributes:
        frames: uint8 [n, H, W, 3] RGB, scaled and cropped, n >= 1.
        times: float64 [n] seconds from the clip's first picture.
    """

    frames: np.ndarray
    times: np.ndarray


Item = Chunk | DataError | None
"""What travels in a clip's queue: chunks, at most one error, and None at the end."""


def decode_ahead(
    sources: Iterable[Source],
    preprocessing: Preprocessing,
    fps: float,
    *,
    chunk_frames: int = 8,
    threads: int = 1,
    pick: Pick | None = None,
) -> Iterator[tuple[str, Item]]:
    """Decode clips in threads and yield their parts in order.

    Args:
        sources: read one by one, at most ``threads + 1`` clips ahead.
        preprocessing: frame size and crop.
        fps: frames sampled per second, by time stamp.
        chunk_frames: most frames in a chunk.
        threads: clips decoded at the same time.
        pick: keep only some frames; all by default.

    Yields:
        (key, chunk) for the frames; after the last chunk of a clip (key, DataError) if it is damaged, then (key, None).
    """
    stop = threading.Event()
    waiting: deque[tuple[str, queue.Queue[Item]]] = deque()
    upcoming = iter(sources)
    chunks = partial(_chunks, preprocessing=preprocessing, fps=fps, size=chunk_frames, pick=pick)
    with ThreadPoolExecutor(threads, thread_name_prefix="reelkin-decode") as pool:

        def refill() -> None:
            while len(waiting) <= threads:
                source = next(upcoming, None)
                if source is None:
                    return
                results: queue.Queue[Item] = queue.Queue(CHUNKS_AHEAD)
                waiting.append((source.key, results))
                pool.submit(_decode, source, chunks, results, stop)

        try:
            refill()
            while waiting:
                # The pool is first in, first out, so the clip that is waited for is always among those being decoded.
                key, results = waiting[0]
                while (item := results.get()) is not None:
                    yield key, item
                waiting.popleft()
                refill()
                yield key, None
        finally:
            stop.set()  # threads that wait at a full queue give up


def _decode(
    source: Source, chunks: Callable[[Source], Iterator[Chunk]], results: queue.Queue[Item], stop: threading.Event
) -> None:
    error: DataError | None = None
    try:
        for chunk in chunks(source):
            if not _put(results, chunk, stop):
                return
    except DataError as caught:
        error = caught
    except Exception as caught:  # nobody foresaw this one; it still belongs to this clip and must not end the run
        log.warning("%s: unforeseen %s while decoding", source.key, type(caught).__name__, exc_info=True)
        error = DataError(Reason.DAMAGED, f"decoding failed with {type(caught).__name__}: {caught}")
    if error is None or _put(results, error, stop):
        _put(results, None, stop)


def _put(results: queue.Queue[Item], item: Item, stop: threading.Event) -> bool:
    while not stop.is_set():
        try:
            results.put(item, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False


def _chunks(
    source: Source, *, preprocessing: Preprocessing, fps: float, size: int, pick: Pick | None
) -> Iterator[Chunk]:
    plan = make_plan(source.data)
    wanted: set[int] | None = None
    samples = choose(plan, Sampling("times", fps), source.start_seconds)
    count = len(samples)
    if count and pick is not None:
        wanted = {int(index) for index in pick(source.key, count)}
    pictures: list[np.ndarray] = []
    times: list[float] = []
    any_frame = False

    def chunk() -> Chunk:
        frames = crop_frames(np.stack(pictures), preprocessing)
        made = Chunk(frames, np.asarray(times, np.float64))
        pictures.clear()
        times.clear()
        return made

    side = preprocessing.short_side
    for number, frame in enumerate(iter_frames(source.data, plan=plan, samples=samples, short_side=side)):
        any_frame = True
        if wanted is not None and number not in wanted:
            continue
        pictures.append(frame.picture)
        times.append(frame.time)
        if len(pictures) == size:
            yield chunk()
    if pictures:
        yield chunk()
    if count and not any_frame:
        raise DataError(Reason.NO_FRAMES, "no picture could be decoded")
