"""Probing in child processes, so that a hostile or damaged file harms only itself."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Literal, Self

from ...core.errors import DataError, Reason, ReelkinError
from .container import Limits

Check = Literal["first", "full"]

_START_SECONDS = 120.0  # a cold start from a slow disk
_AHEAD = 4  # files per child that are asked for before their turn


# Beside the fixed allowance, a file has time for its size: reading only, or decoding all of it.
_BYTES_PER_SECOND = {"first": 10e6, "full": 0.5e6}


class ProbePool:
    """A few child processes that probe files; one that dies or hangs is replaced.

    Use it in a ``with`` statement.

    Args:
        workers: number of children, at least 1.
        check: "first" decodes the first picture, "full" all of them.
        limits: largest picture and longest video.
        timeout_seconds: wall clock for one file; its size adds to it, 1 second per 10 MB (full: per 0.5 MB).
        memory_bytes: address space of a child; 0 sets no limit.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        check: Check = "first",
        limits: Limits | None = None,
        timeout_seconds: float = 60.0,
        memory_bytes: int = 6 << 30,
    ) -> None:
        self._check = check
        self._settings = {
            "limits": dataclasses.asdict(limits or Limits()),
            "memory_bytes": memory_bytes,
        }
        self._timeout = timeout_seconds
        self._ahead = _AHEAD * workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="probe")
        self._local = threading.local()
        self._children: list[_Child] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in list(self._children):
            child.kill()  # a thread that waits for it sees its end
        self._threads.shutdown(wait=True)
        for child in self._children:
            child.stop()

    def map(self, files: Iterable[tuple[str, int]]) -> Iterator[dict[str, Any] | DataError]:
        """Probe files, a few ahead of the one that is asked for.

        Args:
            files: path and size in bytes of each.

        Returns:
            In the order of ``files``: what was found (`Probe.facts`), or why the file is rejected (also
            TIMEOUT and DECODER_DIED).

        Raises:
            ReelkinError: children cannot be started at all.
        """
        waiting: deque[Future[dict[str, Any] | DataError]] = deque()
        try:
            for path, size in files:
                waiting.append(self._threads.submit(self._probe, path, size))
                if len(waiting) >= self._ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _probe(self, path: str, size: int) -> dict[str, Any] | DataError:
        child: _Child | None = getattr(self._local, "child", None)
        if child is None or not child.alive:
            child = self._local.child = _Child(self._settings)
            self._children.append(child)
        if self._closed:
            child.kill()
        seconds = self._timeout + max(0, size) / _BYTES_PER_SECOND[self._check]
        try:
            reply = child.ask({"path": path, "check": self._check, "seconds": seconds})
        except DataError as error:
            self._children.remove(child)
            return error
        if "fault" in reply:
            raise ReelkinError(f"probing failed for a reason of our own; please report this:\n{reply['fault']}")
        if "reason" in reply:
            return DataError(Reason(reply["reason"]), reply["detail"])
        return reply["facts"]


class _Child:
    command = (sys.executable, "-m", f"{__package__}.probe_worker")

    def __init__(self, settings: dict[str, Any]) -> None:
        # No other file of ours is inherited, and no terminal signal reaches it: the parent decides about its end.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [*self.command, json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.alive = True
        if self._line(time.monotonic() + _START_SECONDS) != b"ready":
            self.stop()
            self._errors.seek(0)
            text = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            raise ReelkinError(
                f"a process for probing videos cannot be started ({text[-1] if text else 'it does not answer'}); check "
                "that reelkin is installed for this Python and that the memory limit is not below 1 GiB"
            )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait as long as it says. Raises DataError when the child hangs or dies, and is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request, ensure_ascii=True).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading says how
        line = self._line(time.monotonic() + request["seconds"])
        if line is None:
            self.stop()
            raise DataError(Reason.TIMEOUT, f"no answer within {request['seconds']:.0f} seconds")
        if not line:
            code = self._process.wait()
            self.stop()
            raise DataError(Reason.DECODER_DIED, f"the process that read it ended with {_end_in_words(code)}")
        return json.loads(line)

    def _line(self, deadline: float) -> bytes | None:
        """One line without its end; b"" when the child is gone, None when the deadline passed."""
        assert self._process.stdout is not None
        descriptor, data = self._process.stdout.fileno(), b""
        while True:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(descriptor, 1 << 16)
            data += part
            if not part:
                return b""
            if data.endswith(b"\n"):
                return data.rstrip(b"\n")

    def kill(self) -> None:
        """End the child. For any thread."""
        self._process.kill()

    def stop(self) -> None:
        """End the child and let go of its pipes. For the thread that talks to it."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass


def _end_in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
