"""Children at work: each lane has a place for one child and the clips that were given to it, in order.

A child comes and goes, the clips stay: what a child leaves unfinished, the next one goes on with.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError
from ...core.logs import one_line
from .arena import Arena
from .tasks import Again, Chunk, End, Item, Source
from .worker import Worker

log = logging.getLogger("reelkin.extract")

_ATTEMPTS = 3
_BYTES_PER_SECOND = 1e6  # of a slow disk
_SECONDS_PER_SECOND = 10.0  # of processor for a second of video, before a clip counts as one that never ends
_LONGEST_DETAIL = 1000


@dataclass(eq=False)
class Clip:
    """A clip on its way.

    Attributes:
        number: place among the clips of its run.
        items: what came of it and was not taken yet; the arena is where a chunk's pictures lie.
        received: pictures that came; a new child leaves them out.
        attempts: children that died at it.
        decided: it is known which decoder takes it.
        request: what DALI is asked for it; None when PyAV decodes it.
        retaken: DALI failed at it, so PyAV does it after all.
    """

    number: int
    source: Source
    items: deque[tuple[Item, Arena | None]] = field(default_factory=deque)
    received: int = 0
    attempts: int = 0
    decided: bool = False
    request: dict[str, Any] | None = None
    retaken: bool = False


class Listener(Protocol):
    """Who hears what comes of the clips."""

    def put(self, clip: Clip, item: Item, arena: Arena | None = None) -> None:
        """A further item of a clip."""

    def pick(self, clip: Clip, count: int) -> list[int]:
        """Which of its sampled pictures are wanted."""

    def replaced(self) -> None:
        """A child died."""

    def retake(self, clip: Clip) -> None:
        """DALI failed at a clip."""


class Lane(ABC):
    """A place for one child."""

    def __init__(self, start: Callable[[], Worker], timeout_seconds: float) -> None:
        self._start = start
        self._timeout = timeout_seconds
        self._bad_starts = 0  # one after the other
        self.worker: Worker | None = None

    @property
    @abstractmethod
    def busy(self) -> bool:
        """The child has something to do."""

    @abstractmethod
    def clear(self) -> None:
        """Forget the clips."""

    @abstractmethod
    def _take(self, message: dict[str, Any], run: Listener) -> None:
        """Act on a message. Raises ValueError, KeyError or TypeError when it makes no sense."""

    @abstractmethod
    def _die(self, why: DataError, run: Listener) -> None:
        """The child ended: settle with the clip that it was at."""

    @abstractmethod
    def _resume(self) -> None:
        """Give a new child what is left."""

    def hear(self, run: Listener) -> None:
        """Take one message of the child, waited for."""
        assert self.worker is not None
        message = self.worker.receive()
        if message is not None and message.get("ready"):
            self.worker.ready = True
            return
        try:
            if message is None:
                raise ValueError("no answer, or nonsense")
            if "failure" in message:
                raise ReelkinError(message["failure"])
            self._take(message, run)
        except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
            if isinstance(error, ReelkinError):
                raise
            self._replace(run)

    def _replace(self, run: Listener) -> None:
        assert self.worker is not None
        self._bad_starts = 0 if self.worker.ready else self._bad_starts + 1
        # Something may kill a child while it starts; one that ends by itself will do so again.
        if self._bad_starts >= _ATTEMPTS or (self._bad_starts and not self.worker.killed):
            self.worker.check_start(ended=True)
        why = self.worker.why_gone()
        self.worker.close()
        self.worker = None
        run.replaced()
        self._die(why, run)
        if self.busy:
            self._resume()

    def stop(self) -> None:
        """End a child that is at work; one that waits is kept."""
        if self.busy and self.worker is not None:
            self.worker.close()
            self.worker = None
        self.clear()

    def _chunk(self, clip: Clip, chunk: dict[str, Any], run: Listener) -> None:
        assert self.worker is not None
        pictures, times = self.worker.pictures(chunk), np.asarray(chunk["times"], np.float64)
        if not np.isfinite(times).all():
            raise ValueError(f"pictures at {times} seconds")
        clip.received += len(pictures)
        run.put(clip, Chunk(pictures, times), self.worker.arena)

    def _ready_worker(self) -> Worker:
        if self.worker is None:
            self.worker = self._start()
        return self.worker


class PyavLane(Lane):
    """A child that plans clips, and decodes them with PyAV unless DALI shall."""

    def __init__(self, start: Callable[[], Worker], timeout_seconds: float) -> None:
        super().__init__(start, timeout_seconds)
        self.clips: deque[Clip] = deque()

    @property
    def busy(self) -> bool:
        return bool(self.clips)

    def clear(self) -> None:
        self.clips.clear()

    def give(self, clip: Clip, *, ask: bool, to_dali: bool) -> None:
        """A further clip.

        Args:
            ask: the child asks which pictures are wanted.
            to_dali: it hands the clip's plan back when DALI can decode it.
        """
        self._ask, self._to_dali = ask, to_dali
        self.clips.append(clip)
        self._send(clip)

    def _send(self, clip: Clip) -> None:
        source = clip.source
        self._ready_worker().send(
            {
                "number": clip.number,
                "path": str(source.path),
                "offset": source.offset,
                "bytes": source.bytes,
                "sha256": source.sha256,
                "start_seconds": source.start_seconds,
                "ask": self._ask,
                "to_dali": self._to_dali,
                "skip": clip.received,
                "seconds": self._timeout + (source.bytes or 0) / _BYTES_PER_SECOND,
            }
        )

    def _take(self, message: dict[str, Any], run: Listener) -> None:
        assert self.worker is not None
        clip = self.clips[0]
        if message["number"] != clip.number:
            raise ValueError("an answer to another question")
        if "chunk" in message:
            clip.decided = True
            self._chunk(clip, message["chunk"], run)
        elif "count" in message:
            self.worker.send({"wanted": run.pick(clip, int(message["count"]))})
        elif "request" in message:
            clip.request = message["request"]
        elif message.get("end") and clip.request is not None and not clip.retaken:
            self.clips.popleft()
            clip.decided = True
        else:
            self.clips.popleft()
            clip.decided = True
            run.put(clip, End("pyav", _error_in(message, clip)))

    def _die(self, why: DataError, run: Listener) -> None:
        clip = self.clips[0]
        clip.attempts += 1
        if why.reason is Reason.TIMEOUT or clip.attempts >= _ATTEMPTS:
            self.clips.popleft()
            clip.decided, clip.request = True, None
            run.put(clip, End("pyav", why))

    def _resume(self) -> None:
        for clip in self.clips:
            self._send(clip)


def _error_in(message: dict[str, Any], clip: Clip) -> DataError | None:
    """Why a clip failed, or None when it was decoded. Raises KeyError or ValueError for a message of another kind."""
    if "fault" in message:
        fault = message["fault"]
        log.error("decoding %r failed for a reason of our own; please report this:\n%s", clip.source.key, fault)
        text = f"decoding failed for a reason of our own ({fault.strip().splitlines()[-1]}); please report it"
        return DataError(Reason.DECODER_DIED, one_line(text))
    if "reason" in message:
        return DataError(Reason(message["reason"]), one_line(message["detail"])[:_LONGEST_DETAIL])
    return None if message["end"] else DataError(Reason.DECODER_DIED, "no answer")


@dataclass(eq=False)
class _Request:
    """Clips that DALI was asked for together."""

    number: int
    clips: list[Clip]
    left: set[int]
    """Places of those that are not settled."""


class DaliLane(Lane):
    """A child that decodes clips with DALI, many in a request. A clip that it fails at goes to PyAV.

    A child that dies is asked once more for what is left of the request, then for each clip alone, and then PyAV takes
    them: pictures that came count, so that the same pictures come whenever a healthy child is killed.
    """

    def __init__(self, start: Callable[[], Worker], timeout_seconds: float, threads: int) -> None:
        super().__init__(start, timeout_seconds)
        self._threads = threads
        self._requests: deque[_Request] = deque()
        self._count = 0

    @property
    def busy(self) -> bool:
        return bool(self._requests)

    @property
    def in_hand(self) -> int:
        """Requests that are not answered."""
        return len(self._requests)

    def clear(self) -> None:
        self._requests.clear()

    def give(self, clips: Iterable[Clip]) -> None:
        """Further clips, together."""
        self._requests.append(self._new(list(clips)))
        self._send(self._requests[-1])

    def _new(self, clips: list[Clip]) -> _Request:
        self._count += 1
        return _Request(self._count, clips, set(range(len(clips))))

    def _send(self, request: _Request) -> None:
        samples = []
        seconds = self._timeout
        for clip in request.clips:
            assert clip.request is not None
            values = dict(clip.request)
            seconds += _SECONDS_PER_SECOND * (values["times"][-1] if values["times"] else 0.0)
            values["indices"], values["times"] = values["indices"][clip.received :], values["times"][clip.received :]
            samples.append(values)
        self._ready_worker().send({"number": request.number, "samples": samples, "seconds": seconds * self._threads})

    def _take(self, message: dict[str, Any], run: Listener) -> None:
        request = self._requests[0]
        if message["number"] != request.number:
            raise ValueError("an answer to another question")
        if "chunk" in message:
            self._chunk(self._clip(request, message["chunk"]["sample"]), message["chunk"], run)
        elif message.get("whole"):
            run.put(self._clip(request, message["sample"]), End("dali"))
            request.left.remove(message["sample"])
        elif "failed" in message:
            clip = self._clip(request, message["sample"])
            log.info("%r: DALI fails (%s); PyAV decodes it", clip.source.key, one_line(str(message["failed"])))
            self._retake(clip, run)
            request.left.remove(message["sample"])
        elif message.get("end") and not request.left:
            self._requests.popleft()
        else:
            raise ValueError(f"clips were left out: {message}")

    def _clip(self, request: _Request, place: int) -> Clip:
        if place not in request.left:
            raise ValueError(f"clip {place} is settled, or was not asked for")
        return request.clips[place]

    def _retake(self, clip: Clip, run: Listener) -> None:
        if clip.received:
            run.put(clip, Again())
        clip.received, clip.attempts, clip.retaken = 0, 0, True
        run.retake(clip)

    def _die(self, why: DataError, run: Listener) -> None:
        request = self._requests.popleft()
        left = [request.clips[place] for place in sorted(request.left)]
        for clip in left:
            clip.attempts += 1
        log.warning("the DALI process is started anew for %d clips: %s", len(left), why)
        if any(clip.attempts == 1 for clip in left):
            self._requests.appendleft(self._new(left))
            return
        self._requests.extendleft(self._new([clip]) for clip in reversed(left) if clip.attempts < _ATTEMPTS)
        for clip in left:
            if clip.attempts >= _ATTEMPTS:
                self._retake(clip, run)

    def _resume(self) -> None:
        for request in self._requests:
            self._send(request)
