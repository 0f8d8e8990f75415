"""The child's side of decoding: requests come as JSON through a pipe, pictures go through shared memory.

A child does one request after the other. What a stranger's file does to it, a crash, an endless loop, memory without
end, costs that request and no other: the parent (`worker.Worker`) sees how it ended. While a child waits for room its
clock stands still. Every message to the parent bears the number of the request that it answers.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import stat
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from ...core.confinement import allow_cpu, bound, die_with
from ...core.errors import DataError, Reason
from .arena import Arena, Ring

LONGEST_MESSAGE = 64 << 20
_CHUNK_FRAMES = 8
_LOOK_SECONDS = 0.002  # how often a child that waits for room looks whether there is some
_OPEN_FILES = 64
_MOST_ERRORS = 1 << 20


class Failure(Exception):
    """The run must end: not this clip is at fault (its shard has changed, a library is missing)."""


class Output:
    """Where a child's answers go.

    Args:
        connection: to the parent.
        arena: for pictures.
    """

    def __init__(self, connection: Connection, arena: Arena) -> None:
        self._connection = connection
        self._arena = arena
        self._ring = Ring(arena)
        self._number = -1
        self._inbox: deque[dict[str, Any]] = deque()

    def next_request(self) -> dict[str, Any] | None:
        """The next request, waited for; None when the parent is gone."""
        try:
            while not self._inbox:
                self._inbox.append(json.loads(self._connection.recv_bytes(LONGEST_MESSAGE)))
        except (EOFError, OSError):
            return None
        request = self._inbox.popleft()
        self._number = request["number"]
        return request

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Ask the parent something; its answer is the next message that is no request."""
        self.say(**question)
        while True:
            message = json.loads(self._connection.recv_bytes(LONGEST_MESSAGE))
            if "number" not in message:
                return message
            self._inbox.append(message)

    def say(self, **message: Any) -> None:
        """Send a message about the request at hand."""
        self._connection.send_bytes(json.dumps({**message, "number": self._number}).encode("ascii"))

    def chunk(self, frames: np.ndarray, times: Sequence[float] | np.ndarray, **extra: Any) -> None:
        """Hand pictures over: uint8 [n, H, W, 3], any layout, with float64 [n] seconds; in pieces that fit."""
        first = 0
        while first < len(frames):
            count = self.at_once(len(frames) - first, frames.shape[1:])
            self.room((count, *frames.shape[1:]))[:] = frames[first : first + count]
            self.sent(times[first : first + count], **extra)
            first += count

    def at_once(self, count: int, shape: tuple[int, ...]) -> int:
        """How many of ``count`` pictures of a shape [H, W, 3] are handed over together."""
        return max(1, min(count, _CHUNK_FRAMES, self._arena.size // 4 // int(np.prod(shape))))

    def room(self, shape: tuple[int, ...]) -> np.ndarray:
        """Room for pictures [n, H, W, 3], waited for while the parent has not taken enough of those before."""
        length = int(np.prod(shape))
        offset = self._ring.place(length)
        if offset is None:
            left = signal.setitimer(signal.ITIMER_REAL, 0)[0]
            while (offset := self._ring.place(length)) is None:
                time.sleep(_LOOK_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, left)
        self._offset, self._shape = offset, shape
        return self._arena.view(offset, shape)

    def sent(self, times: Sequence[float] | np.ndarray, **extra: Any) -> None:
        """What `room` gave is filled with ``len(times)`` pictures, from its beginning."""
        shape = [len(times), *self._shape[1:]]
        self.say(chunk={"offset": self._offset, "shape": shape, "times": [float(t) for t in times], **extra})

    def allow(self, seconds: float) -> None:
        """From now on the request may take so many seconds, of the clock and of the processor; then the kernel ends the
        process. Waiting for room does not count."""
        signal.setitimer(signal.ITIMER_REAL, seconds)
        allow_cpu(seconds)


Handle = Callable[[dict[str, Any], Output], None]


def serve(prepare: Callable[[dict[str, Any]], Handle]) -> None:
    """Main loop of a child; `worker.Worker` starts it.

    Args:
        prepare: called once with the settings; gives the function that does a request, which tells its results to the
            output and raises DataError for a bad clip or `Failure` for what must end the run. After it, the end of the
            request is sent with what the function put into ``output.say``.
    """
    settings = json.loads(sys.argv[1])
    connection = Connection(settings["connection"])
    arena = Arena(settings["arena"], settings["arena_bytes"])
    os.dup2(2, 1)  # whatever a library prints is no answer
    die_with(settings["parent"])
    bound(resource.RLIMIT_AS, settings.get("memory_bytes") or None)
    bound(resource.RLIMIT_FSIZE, 0 if settings.get("memory_bytes") else None)
    bound(resource.RLIMIT_CORE, 0)
    if settings.get("memory_bytes"):
        bound(resource.RLIMIT_NOFILE, _OPEN_FILES)
    if settings.get("nice"):
        os.nice(settings["nice"])
    output = Output(connection, arena)
    handle = prepare(settings)
    gc.freeze()  # what is loaded now stays: collecting then costs next to nothing
    output.say(ready=True)
    while (request := output.next_request()) is not None:
        output.allow(request["seconds"])
        _bound_errors()
        try:
            handle(request, output)
        except DataError as error:
            output.say(reason=error.reason.value, detail=str(error))
        except Failure as error:
            output.say(failure=str(error))
        except MemoryError:
            output.say(reason=Reason.DECODER_DIED.value, detail="it asks for more memory than the limit")
        except BrokenPipeError:
            return
        except Exception:
            output.say(fault=traceback.format_exc())
        else:
            output.say(end=True)
        signal.setitimer(signal.ITIMER_REAL, 0)
        gc.collect()  # an open container and what it yielded refer to one another, and are large


def _bound_errors() -> None:
    """Libraries write to standard error for weeks: the file that it is begins anew when it has grown."""
    status = os.fstat(2)
    if stat.S_ISREG(status.st_mode) and status.st_size > _MOST_ERRORS:
        os.ftruncate(2, 0)
        os.lseek(2, 0, os.SEEK_SET)
