"""Decoding ahead in child processes: clips go in, their pictures come out in the same order while the encoder computes.

Each clip is decoded by one child, each child does its clips in order, and its memory for pictures is a ring: a child
that is ahead waits until the pictures of earlier clips were taken, so memory depends on the number of children and not
on the length of videos. One thread talks to the children; it computes nothing, so it does not hold up the encoder.

A child that dies is replaced, and its clip goes on where it stood: the pictures that were received count. The third
death at one clip rejects that clip.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from typing import Any

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError
from ...core.logs import one_line
from ...shards.video.container import Limits
from ...shards.video.sampling import Sampling
from .arena import Arena
from .geometry import Geometry
from .tasks import Chunk, End, Item, Pick, Source
from .worker import Worker

log = logging.getLogger("reelkin.extract")

PYAV_CHILD = f"{__package__}.pyav_child"
"""The module of the children."""

_IN_HAND = 2  # clips that a child has been given and has not finished: the next one begins without a pause
_MOST_AHEAD = 1000  # clips that were begun before the one whose turn it is; without pictures they cost no memory
_ATTEMPTS = 3
_LOOK_SECONDS = 0.2
_BYTES_PER_SECOND = 1e6  # of a slow disk
_LONGEST_DETAIL = 1000
_LEAST_PICTURES = 4  # that a child's memory holds at least


@dataclass(frozen=True)
class PoolSettings:
    """How clips are decoded.

    Attributes:
        sampling: which pictures.
        geometry: how large.
        workers: child processes.
        arena_bytes: memory for pictures that wait for the encoder, for each child.
        limits: largest picture and longest video.
        timeout_seconds: for one clip, on the clock and of the processor; its size and length add to it.
        memory_bytes: address space of a child; 0 sets no limit.
        nice: added to the children's niceness, so that they fill the gaps that the encoder leaves.
    """

    sampling: Sampling
    geometry: Geometry
    workers: int = 1
    arena_bytes: int = 64 << 20
    limits: Limits = field(default_factory=Limits)
    timeout_seconds: float = 120.0
    memory_bytes: int = 6 << 30
    nice: int = 0


@dataclass(eq=False)
class _Clip:
    number: int
    source: Source
    items: deque[tuple[Item, Arena | None]] = field(default_factory=deque)
    received: int = 0
    attempts: int = 0


@dataclass(eq=False)
class _Lane:
    """A child's place: the child comes and goes, the clips that it was given stay."""

    clips: deque[_Clip] = field(default_factory=deque)
    worker: Worker | None = None


class DecodePool:
    """Child processes that decode, started when first needed and kept until `close`.

    Use it in a ``with`` statement, or close it; what is left open ends with this process.

    Attributes:
        settings: as given.
        waited: seconds for which whoever takes pictures had to wait for one.
        replaced: children that died and were replaced.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.waited = 0.0
        self.replaced = 0
        self._lanes = [_Lane() for _ in range(settings.workers)]
        self._runs: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = threading.Lock()

    def decode(self, sources: Iterable[Source], pick: Pick | None = None) -> Iterator[tuple[Source, Item]]:
        """Decode clips and yield what comes of them, clip by clip in the order of ``sources``.

        Args:
            sources: asked for the next clip whenever a child can take one; from another thread.
            pick: keep only some of the sampled pictures.

        Yields:
            (source, `Chunk`) for the pictures, then (source, `End`).

        Raises:
            ReelkinError: a shard is not as it was written, or children cannot be started.
        """
        with self._busy:
            if self._thread is None:
                # Children die with the thread that started them, so it has to last as long as they.
                self._thread = threading.Thread(target=self._serve, name="reelkin-decode", daemon=True)
                self._thread.start()
            run = _Run(self, iter(sources), pick)
            self._runs.put(run)
            try:
                yield from run.items()
            finally:
                run.stop()

    def _serve(self) -> None:
        while (run := self._runs.get()) is not None:
            run.serve()
        for lane in self._lanes:
            if lane.worker is not None:
                lane.worker.close()

    def start_worker(self) -> Worker:
        """A new child. Raises ReelkinError."""
        settings = self.settings
        arena_bytes = max(settings.arena_bytes, _LEAST_PICTURES * settings.geometry.largest_bytes)
        message = {
            "sampling": settings.sampling.as_dict(),
            "geometry": settings.geometry.as_dict(),
            "limits": asdict(settings.limits),
            "memory_bytes": settings.memory_bytes and settings.memory_bytes + arena_bytes,
            "nice": settings.nice,
        }
        return Worker(PYAV_CHILD, message, arena_bytes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that there are now."""
        return [lane.worker.pid for lane in self._lanes if lane.worker is not None]

    def close(self) -> None:
        """End the children."""
        if self._thread is not None:
            self._runs.put(None)
            self._thread.join()
            self._thread = None

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Run:
    """One call of `DecodePool.decode`: `items` runs in the caller's thread, `serve` in the pool's."""

    def __init__(self, pool: DecodePool, sources: Iterator[Source], pick: Pick | None) -> None:
        self._pool, self._sources, self._pick = pool, sources, pick
        self._lanes = pool._lanes
        self._order: deque[_Clip] = deque()
        self._changed = threading.Condition()
        self._exhausted = self._stopped = False
        self._over = threading.Event()
        self._failure: BaseException | None = None
        self._count = 0

    # --- the caller's thread

    def items(self) -> Iterator[tuple[Source, Item]]:
        while (found := self._next()) is not None:
            source, item, arena = found
            yield source, item
            if arena is not None:
                arena.give_back()

    def _next(self) -> tuple[Source, Item, Arena | None] | None:
        with self._changed:
            began = time.monotonic()
            self._changed.wait_for(lambda: self._failure or (self._order[0].items if self._order else self._exhausted))
            self._pool.waited += time.monotonic() - began
            if self._failure is not None:
                raise self._failure
            if not self._order:
                return None
            clip = self._order[0]
            item, arena = clip.items.popleft()
            if isinstance(item, End):
                self._order.popleft()
            return clip.source, item, arena

    def stop(self) -> None:
        """End `serve`, wherever it is."""
        self._stopped = True
        self._over.wait()

    # --- the pool's thread

    def serve(self) -> None:
        try:
            while not self._stopped:
                self._hand_out()
                lanes = {lane.worker.connection: lane for lane in self._lanes if lane.clips and lane.worker}
                if not lanes and self._exhausted:
                    break
                for connection in wait(list(lanes), _LOOK_SECONDS):
                    self._hear(lanes[connection])  # type: ignore[index]
                for lane in lanes.values():
                    if lane.worker is not None:
                        lane.worker.check_start()
        except BaseException as error:  # it belongs to whoever takes the pictures
            with self._changed:
                self._failure = error
                self._changed.notify()
        finally:
            self._abandon()
            self._over.set()

    def _abandon(self) -> None:
        """End children that are still at work for this run."""
        for lane in self._lanes:
            if lane.clips and lane.worker is not None:
                lane.worker.close()
                lane.worker = None
            lane.clips.clear()

    def _hand_out(self) -> None:
        """Give clips to the children that have too few."""
        while not self._exhausted and len(self._order) < _MOST_AHEAD:
            lane = min(self._lanes, key=lambda lane: len(lane.clips))
            if len(lane.clips) >= _IN_HAND:
                return
            source = next(self._sources, None)
            with self._changed:
                if source is None:
                    self._exhausted = True
                    self._changed.notify()
                    return
                clip = _Clip(self._count, source)
                self._order.append(clip)
            self._count += 1
            lane.clips.append(clip)
            if lane.worker is None:
                lane.worker = self._pool.start_worker()
            self._send(lane.worker, clip)

    def _send(self, worker: Worker, clip: _Clip) -> None:
        source = clip.source
        seconds = self._pool.settings.timeout_seconds + (source.bytes or 0) / _BYTES_PER_SECOND
        worker.send(
            {
                "number": clip.number,
                "path": str(source.path),
                "offset": source.offset,
                "bytes": source.bytes,
                "sha256": source.sha256,
                "start_seconds": source.start_seconds,
                "ask": self._pick is not None,
                "skip": clip.received,
                "seconds": seconds,
            }
        )

    def _hear(self, lane: _Lane) -> None:
        """Take one message of a child."""
        assert lane.worker is not None
        message = lane.worker.receive()
        if message is not None and message.get("ready"):
            lane.worker.ready = True
            return
        clip = lane.clips[0]
        try:
            if message is None or message["number"] != clip.number:
                raise ValueError("no answer, or one to another question")
            self._take(lane.worker, clip, message)
        except (ValueError, KeyError, TypeError):  # it died, or its memory is not its own any more
            self._replace(lane)
            return
        if clip.items and isinstance(clip.items[-1][0], End):
            lane.clips.popleft()

    def _take(self, worker: Worker, clip: _Clip, message: dict[str, Any]) -> None:
        if "chunk" in message:
            chunk = message["chunk"]
            pictures = worker.pictures(chunk)
            clip.received += len(pictures)
            self._put(clip, Chunk(pictures, np.asarray(chunk["times"], np.float64)), worker.arena)
        elif "count" in message:
            assert self._pick is not None
            wanted = self._pick(clip.source, int(message["count"]))
            worker.send({"wanted": [int(index) for index in wanted]})
        elif "failure" in message:
            raise ReelkinError(message["failure"])
        elif "fault" in message:
            log.error(
                "decoding %r failed for a reason of our own; please report this:\n%s",
                clip.source.key,
                message["fault"],
            )
            last = message["fault"].strip().splitlines()[-1]
            text = one_line(f"decoding failed for a reason of our own ({last}); please report it")
            self._put(clip, End(error=DataError(Reason.DECODER_DIED, text)))
        elif "reason" in message:
            detail = one_line(message["detail"])[:_LONGEST_DETAIL]
            self._put(clip, End(error=DataError(Reason(message["reason"]), detail)))
        elif message["end"]:
            self._put(clip, End("pyav"))

    def _put(self, clip: _Clip, item: Item, arena: Arena | None = None) -> None:
        with self._changed:
            clip.items.append((item, arena))
            self._changed.notify()

    def _replace(self, lane: _Lane) -> None:
        """The lane's child is gone: say so, and give its clips to a new one."""
        assert lane.worker is not None
        lane.worker.check_start()
        why = lane.worker.why_gone()
        lane.worker.close()
        lane.worker = None
        clip = lane.clips[0]
        clip.attempts += 1
        self._pool.replaced += 1
        if why.reason is Reason.TIMEOUT or clip.attempts >= _ATTEMPTS:
            self._put(clip, End(error=why))
            lane.clips.popleft()
        if lane.clips:
            lane.worker = self._pool.start_worker()
            for clip in lane.clips:
                self._send(lane.worker, clip)
