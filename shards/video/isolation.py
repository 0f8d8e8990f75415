"""Probing in child processes, so that a hostile or damaged file harms only itself."""

from __future__ import annotations

import dataclasses
import json
import logging
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
from ...core.logs import one_line
from .container import Limits
from .frame_names import FrameNames

logger = logging.getLogger(__name__)

Check = Literal["first", "full"]

_START_SECONDS = 120.0  # a cold start from a slow disk
_REAP_SECONDS = 10.0  # a killed child that a dead network disk holds may never be gone
_AHEAD = 4  # files per child that are asked for before their turn
_LONGEST_ANSWER = 16 << 20
_LONGEST_DETAIL = 1000
_FILES_PER_CHILD = 1000  # the heap gains some 0.5 KB a file by its holes; a leak would be bounded as well
# glibc keeps large blocks among small ones after a while, and pictures of many sizes then break up the heap.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}


# Beside the fixed allowance, a file has time for its size: reading only, or decoding all of it.
_BYTES_PER_SECOND = {"first": 10e6, "full": 0.5e6}


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One input to look at.

    Attributes:
        path: of the file, or of the folder for frames.
        bytes: its size, which gives it time.
        kind: what it is, a value of `sources.inputs.Kind`.
        clip_seconds: cut longer videos into clips of about so many seconds; None keeps them whole.
        frame_rate, frame_names: how the names of frames become times, see `frames.pack_frames`.
        scratch: folder for clip files that have to be made; the caller removes it.
    """

    path: str
    bytes: int
    kind: str = "file"
    clip_seconds: float | None = None
    frame_rate: float = 25.0
    frame_names: FrameNames = "auto"
    scratch: str = ""


class ProbePool:
    """A few child processes that probe files; one that dies or hangs is replaced.

    Use it in a ``with`` statement.

    Args:
        workers: number of children, at least 1.
        check: "first" decodes the first picture, "full" all of them.
        limits: largest picture and longest video.
        timeout_seconds: wall clock for one file; its size adds to it, 1 second per 10 MB (full: per 0.5 MB).
        cpu_seconds: processor time for one file, its size adds to it likewise; None for as much as the wall clock.
        memory_bytes: address space of a child; 0 sets no limit.
        write_bytes: largest file that a child may write; 0 for no writing, None sets no limit.
        files_per_child: a child is replaced by a new one after so many files.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        check: Check = "first",
        limits: Limits | None = None,
        timeout_seconds: float = 60.0,
        cpu_seconds: float | None = None,
        memory_bytes: int = 6 << 30,
        write_bytes: int | None = 0,
        files_per_child: int = _FILES_PER_CHILD,
    ) -> None:
        self._check = check
        self._settings = {
            "limits": dataclasses.asdict(limits or Limits()),
            "memory_bytes": memory_bytes,
            "write_bytes": write_bytes,
            "parent": os.getpid(),
        }
        self._timeout = timeout_seconds
        self._cpu_seconds = timeout_seconds if cpu_seconds is None else cpu_seconds
        self._files_per_child = files_per_child
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
        for reply in self.prepare((Request(path, size) for path, size in files), self._ahead):
            yield reply if isinstance(reply, DataError) else reply["facts"]

    def prepare(self, requests: Iterable[Request], ahead: int) -> Iterator[dict[str, Any] | DataError]:
        """Like `map`, for any kind of input; several threads may each go through requests of their own.

        Args:
            requests: what to look at.
            ahead: how many are asked for before the first answer is taken; clip files of so many may lie in scratch
                folders at once.

        Returns:
            In the order of ``requests``: a dictionary with ``facts`` and ``clips`` (see `preparing.prepare`), or why
            the input is rejected.
        """
        waiting: deque[Future[dict[str, Any] | DataError]] = deque()
        try:
            for request in requests:
                waiting.append(self._threads.submit(self._ask, request))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def _ask(self, request: Request) -> dict[str, Any] | DataError:
        extra = max(0, request.bytes) / _BYTES_PER_SECOND[self._check]
        question = {
            **dataclasses.asdict(request),
            "check": self._check,
            "seconds": self._timeout + extra,
            "cpu_seconds": self._cpu_seconds + extra,
        }
        while True:
            child = self._child()
            fresh = not child.answered
            try:
                reply = child.ask(question)
            except DataError as error:
                self._children.remove(child)
                answer: dict[str, Any] | DataError = error
            else:
                answer = _answer_of(reply, request)
            died = isinstance(answer, DataError) and answer.reason is Reason.DECODER_DIED
            if died:
                child.stop()
            if fresh or not died or self._closed:  # else an earlier file may be the cause; a new child has no past
                return answer

    def _child(self) -> _Child:
        """The child of this thread, in a state to be asked."""
        child: _Child | None = getattr(self._local, "child", None)
        if child is not None and child.alive and child.answered >= self._files_per_child:
            child.stop()
        if child is None or not child.alive:
            if child in self._children:
                self._children.remove(child)
            # A child dies with the thread that started it (see probe_worker); the pool's threads last as long as it.
            child = self._local.child = _Child(self._settings)
            self._children.append(child)
        if self._closed:
            child.kill()
        return child


class _Child:
    command = (sys.executable, "-P", "-m", f"{__package__}.probe_worker")

    def __init__(self, settings: dict[str, Any]) -> None:
        # No other file of ours is inherited, and no terminal signal reaches it: the parent decides about its end.
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
            self._process = subprocess.Popen(
                [*self.command, json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**_MALLOC, **os.environ},
                start_new_session=True,
            )
        except OSError as error:
            raise ReelkinError(
                f"a process for probing videos cannot be started ({error.strerror or error}); make room for processes, "
                "open files and temporary files, then run the same command again"
            ) from error
        self.alive = True
        self.answered = 0
        if self._line(time.monotonic() + _START_SECONDS) != b"ready":
            self._process.kill()
            self._errors.seek(0)
            text = self._errors.read(_LONGEST_ANSWER).decode("utf-8", "replace").strip().splitlines()
            self.stop()
            raise ReelkinError(
                f"a process for probing videos cannot be started ({text[-1] if text else 'it does not answer'}); check "
                "that reelkin is installed for this Python and that the memory limit is not below 1 GiB"
            )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send a request and wait as long as it says. Raises DataError when the child hangs or dies, and is gone."""
        assert self._process.stdin is not None
        numbered = {**request, "number": self.answered}  # what it says unasked is not taken for the next answer
        try:
            self._process.stdin.write(json.dumps(numbered, ensure_ascii=True).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; reading says how
        line = self._line(time.monotonic() + request["seconds"])
        if line is None:
            self.stop()
            raise DataError(Reason.TIMEOUT, f"no answer within {request['seconds']:.0f} seconds")
        if not line:
            self.stop(patience=_REAP_SECONDS)
            code = self._process.returncode
            if code == -signal.SIGXCPU:
                text = f"it used up its {request['cpu_seconds']:.0f} seconds of CPU time"
                raise DataError(Reason.TIMEOUT, text)
            raise DataError(Reason.DECODER_DIED, f"the process that read it ended with {_end_in_words(code)}")
        try:
            reply = _checked(line, self.answered)
        except ValueError as error:
            self.stop()
            raise DataError(Reason.DECODER_DIED, f"the process that read it answered with {error}") from None
        self.answered += 1
        return reply

    def _line(self, deadline: float) -> bytes | None:
        """What was written up to the end of a line; b"" when the child is gone, None when the deadline passed."""
        assert self._process.stdout is not None
        descriptor, data = self._process.stdout.fileno(), bytearray()
        while True:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                return None
            part = os.read(descriptor, 1 << 16)
            data += part
            if not part:
                return b""
            if data.endswith(b"\n") or len(data) > _LONGEST_ANSWER:
                return bytes(data).removesuffix(b"\n") or b"\n"

    def kill(self) -> None:
        """End the child. For any thread."""
        self._process.kill()

    def stop(self, patience: float = 0.0) -> None:
        """End the child, at once or after ``patience`` seconds, and let go. For the thread that talks to it."""
        self.alive = False
        for seconds in (patience, _REAP_SECONDS):
            try:
                self._process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._errors.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    pass


def _checked(line: bytes, number: int) -> dict[str, Any]:
    """A child's answer. Raises ValueError with what is wrong: a decoder may have written over the child's memory."""
    if len(line) > _LONGEST_ANSWER:
        raise ValueError(f"more than {_LONGEST_ANSWER >> 20} MB")
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("something else than JSON") from None
    if not isinstance(reply, dict) or not (
        isinstance(reply.get("fault", reply.get("failure")), str)
        or isinstance(reply.get("facts"), dict)
        or (reply.get("reason") in set(Reason) and isinstance(reply.get("detail"), str))
    ):
        raise ValueError("JSON of another form")
    if reply.pop("number", None) != number:
        raise ValueError("what was not asked")
    return reply


def _answer_of(reply: dict[str, Any], request: Request) -> dict[str, Any] | DataError:
    if "failure" in reply:
        raise ReelkinError(reply["failure"])
    if "fault" in reply:
        # A mistake of ours that this input brought to light must not end a run over a million others.
        logger.error("probing %r failed for a reason of our own; please report this:\n%s", request.path, reply["fault"])
        last = reply["fault"].strip().splitlines()[-1]
        return DataError(Reason.DECODER_DIED, f"probing failed for a reason of our own ({last}); please report it")
    if "reason" in reply:
        return DataError(Reason(reply["reason"]), one_line(reply["detail"])[:_LONGEST_DETAIL])
    return reply


def _end_in_words(code: int | None) -> str:
    if code is None:
        return "no trace"
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
