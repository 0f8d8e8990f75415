"""Decoding ahead in child processes: clips go in, their pictures come out in the same order while the encoder computes.

Each clip is decoded by one child, each child does its clips in order, and its memory for pictures is a ring: a child
that is ahead waits until the pictures of earlier clips were taken, so memory depends on the number of children and not
on the length of videos. One thread talks to the children; it computes nothing, so it does not hold up the encoder.

A child that dies is replaced, and its clip goes on where it stood: the pictures that were received count. The third
death at one clip rejects that clip.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait

from ...core.errors import ReelkinError
from ...shards.video.container import Limits
from ...shards.video.sampling import Sampling
from .arena import Arena
from .batching import Budget
from .geometry import Geometry
from .lanes import Clip, DaliLane, Lane, PyavLane
from .route import Hardware
from .tasks import End, Item, Pick, Source
from .worker import Worker

PYAV_CHILD, DALI_CHILD = f"{__package__}.pyav_child", f"{__package__}.dali_child"
"""The modules of the children."""

_IN_HAND = 2  # clips that a child has been given and has not finished: the next one begins without a pause
_MOST_AHEAD = 256  # clips that were begun before the one whose turn it is: what is begun no other rank can take
_DALI_CLIPS = 32  # in a request; the child divides them into batches
_LOOK_SECONDS = 0.2
_LEAST_PICTURES = 4  # that a child's memory holds at least


@dataclass(frozen=True)
class DaliSettings:
    """How DALI decodes, in a process of its own.

    Attributes:
        hardware: what it decodes on.
        device_id: of the GPU.
        threads: of DALI.
        budget: the most that a batch may hold.
    """

    hardware: Hardware
    device_id: int
    threads: int
    budget: Budget


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
        dali: decode with DALI what it can take; None leaves all to PyAV.
    """

    sampling: Sampling
    geometry: Geometry
    workers: int = 1
    arena_bytes: int = 64 << 20
    limits: Limits = field(default_factory=Limits)
    timeout_seconds: float = 120.0
    memory_bytes: int = 6 << 30
    nice: int = 0
    dali: DaliSettings | None = None


class DecodePool:
    """Child processes that decode, started when first needed and kept until `close`.

    Use it in a ``with`` statement, or close it; what is left open ends with this process.

    Attributes:
        settings: as given.
        waited: seconds for which whoever takes pictures had to wait for one.
        replaced: children that died and were replaced.
        retaken: clips that DALI failed at and PyAV took.
    """

    def __init__(self, settings: PoolSettings) -> None:
        self.settings = settings
        self.waited = 0.0
        self.replaced = self.retaken = 0
        self.planning = [PyavLane(self._start_pyav, settings.timeout_seconds) for _ in range(settings.workers)]
        self.dali: DaliLane | None = None
        self.lanes: list[Lane] = [*self.planning]
        if settings.dali is not None:
            self.dali = DaliLane(self._start_dali, settings.timeout_seconds, settings.dali.threads)
            self.retaking = PyavLane(self._start_pyav, settings.timeout_seconds)
            self.lanes += [self.dali, self.retaking]
        self._runs: queue.SimpleQueue[_Run | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._busy = threading.Lock()
        self._busy_for = 0
        self._closing = False

    def decode(self, sources: Iterable[Source], pick: Pick | None = None) -> Iterator[tuple[Source, Item]]:
        """Decode clips and yield what comes of them, clip by clip in the order of ``sources``.

        Args:
            sources: asked for the next clip whenever a child can take one; from another thread.
            pick: keep only some of the sampled pictures.

        Yields:
            (source, `Chunk`) for the pictures, then (source, `End`).

        Raises:
            ReelkinError: a shard is not as it was written, or children cannot be started.
            RuntimeError: an earlier call of the same thread is not at its end (other threads wait for it).
        """
        if self._busy.locked() and self._busy_for == threading.get_ident():
            raise RuntimeError("clips are being decoded: take all that comes of the earlier call, or close it")
        with self._busy:
            self._busy_for = threading.get_ident()
            if self._thread is None:
                # Children die with the thread that started them, so it has to last as long as they.
                self._closing = False
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
        for lane in self.lanes:
            if lane.worker is not None:
                lane.worker.close()

    @property
    def _arena_bytes(self) -> int:
        return max(self.settings.arena_bytes, _LEAST_PICTURES * self.settings.geometry.largest_bytes)

    def _start_pyav(self) -> Worker:
        settings = self.settings
        message = {
            "sampling": settings.sampling.as_dict(),
            "geometry": settings.geometry.as_dict(),
            "limits": asdict(settings.limits),
            "memory_bytes": settings.memory_bytes and settings.memory_bytes + self._arena_bytes,
            "nice": settings.nice,
            "hardware": settings.dali and settings.dali.hardware.as_dict(),
        }
        return Worker(PYAV_CHILD, message, self._arena_bytes)

    def _start_dali(self) -> Worker:
        dali = self.settings.dali
        assert dali is not None
        message = {
            "device": dali.hardware.device,
            "device_id": dali.device_id,
            "threads": dali.threads,
            "budget": asdict(dali.budget),
            "nice": self.settings.nice,
        }
        return Worker(DALI_CHILD, message, self._arena_bytes)

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that there are now."""
        return [lane.worker.pid for lane in self.lanes if lane.worker is not None]

    def close(self) -> None:
        """End the children, and what is being decoded."""
        if self._thread is not None:
            self._closing = True
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
        self._order: deque[Clip] = deque()  # not wholly taken
        self._unrouted: deque[Clip] = deque()  # of which it is not known which decoder takes them
        self._to_dali: deque[Clip] = deque()
        self._to_retake: deque[Clip] = deque()
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
        # At the interpreter's end, where what was left open is cleared away, the other thread is no more.
        while not self._over.wait(_LOOK_SECONDS) and not sys.is_finalizing():
            pass

    # --- the pool's thread

    def serve(self) -> None:
        try:
            while not self._stopped:
                if self._pool._closing:
                    raise ReelkinError("the processes for decoding were closed before all was decoded")
                self._hand_out()
                lanes = {lane.worker.connection: lane for lane in self._pool.lanes if lane.busy and lane.worker}
                if not lanes and self._exhausted and not self._to_retake:
                    break
                for connection in wait(list(lanes), _LOOK_SECONDS):
                    lanes[connection].hear(self)  # type: ignore[index]
                for lane in lanes.values():
                    if lane.worker is not None:
                        lane.worker.check_start()
        except BaseException as error:  # it belongs to whoever takes the pictures
            with self._changed:
                self._failure = error
                self._changed.notify()
        finally:
            for lane in self._pool.lanes:
                lane.stop()
            self._over.set()

    def _hand_out(self) -> None:
        self._hand_to_dali()
        # A retaken clip waits for its turn: then no picture of a later clip can keep its child from going on.
        if self._to_retake and self._order[0] is self._to_retake[0]:
            self._pool.retaking.give(self._to_retake.popleft(), ask=self._pick is not None, to_dali=False)
        while not self._exhausted and len(self._order) < _MOST_AHEAD:
            lane = min(self._pool.planning, key=lambda lane: len(lane.clips))
            if len(lane.clips) >= _IN_HAND:
                return
            source = next(self._sources, None)
            with self._changed:
                if source is None:
                    self._exhausted = True
                    self._changed.notify()
                    return
                clip = Clip(self._count, source)
                self._order.append(clip)
            self._count += 1
            if self._pool.dali is not None:
                self._unrouted.append(clip)
            lane.give(clip, ask=self._pick is not None, to_dali=self._pool.dali is not None)

    def _hand_to_dali(self) -> None:
        """Clips go to DALI in their order: its child's memory is a ring as well."""
        dali = self._pool.dali
        if dali is None:
            return
        while self._unrouted and self._unrouted[0].decided:
            clip = self._unrouted.popleft()
            if clip.request is not None:
                self._to_dali.append(clip)
        last = self._exhausted and not self._unrouted
        while self._to_dali and dali.in_hand < _IN_HAND:
            # Many clips make good batches: behind a request that is under way, the next one may grow.
            if dali.in_hand and len(self._to_dali) < _DALI_CLIPS and not last:
                return
            dali.give([self._to_dali.popleft() for _ in range(min(_DALI_CLIPS, len(self._to_dali)))])

    def put(self, clip: Clip, item: Item, arena: Arena | None = None) -> None:
        with self._changed:
            clip.items.append((item, arena))
            self._changed.notify()

    def pick(self, clip: Clip, count: int) -> list[int]:
        assert self._pick is not None
        return [int(index) for index in self._pick(clip.source, count)]

    def replaced(self) -> None:
        self._pool.replaced += 1

    def retake(self, clip: Clip) -> None:
        self._pool.retaken += 1
        self._to_retake.append(clip)
        self._to_retake = deque(sorted(self._to_retake, key=lambda clip: clip.number))
