"""The parent's handle on a decoding child: starting it, talking to it, and saying how it ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Pipe
from typing import Any

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError
from .arena import Arena
from .child import LONGEST_MESSAGE

_START_SECONDS = 120.0  # a cold start from a slow disk
_REAP_SECONDS = 10.0  # a killed child that a dead network disk holds may never be gone
_LAST_SECONDS = 0.5  # between the end of its pipe and its own
_ERRORS_READ = 1 << 16
# glibc keeps large blocks among small ones after a while, and pictures of many sizes then break up the heap.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Worker:
    """One child process with its pipe and its memory for pictures.

    Args:
        module: name of the child's module, run with ``python -m``.
        settings: JSON values for it.
        arena_bytes: memory for pictures that wait to be taken.

    Attributes:
        pid: of the child.
        ready: it has said that it is; requests may be sent before.

    Raises:
        ReelkinError: the process cannot be started.
    """

    def __init__(self, module: str, settings: dict[str, Any], arena_bytes: int) -> None:
        self.module = module
        try:
            self.arena = Arena.create(arena_bytes)
            self.connection, theirs = Pipe()
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
            ours = {"connection": theirs.fileno(), "arena": self.arena.descriptor, "arena_bytes": arena_bytes}
            self._process = subprocess.Popen(
                # -P: files in the folder where one stands, among strangers' videos, are no modules
                [sys.executable, "-P", "-m", module, json.dumps({**settings, **ours, "parent": os.getpid()})],
                stdin=subprocess.DEVNULL,
                stdout=self._errors,
                stderr=self._errors,
                pass_fds=(theirs.fileno(), self.arena.descriptor),
                env={**_MALLOC, **_ONE_THREAD, **os.environ},
                start_new_session=True,  # no terminal signal reaches it: the parent decides about its end
            )
        except OSError as error:
            raise ReelkinError(
                f"a process for decoding cannot be started ({error.strerror or error}); make room for processes, open "
                "files and memory, then run the same command again"
            ) from error
        theirs.close()
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._pass_on, name="reelkin-send", daemon=True)
        self._sender.start()
        self.pid = self._process.pid
        self.ready = False
        self._give_up = time.monotonic() + _START_SECONDS

    def check_start(self, ended: bool = False) -> None:
        """Raise ReelkinError when the child ended, or time ran out, before it was ready.

        Args:
            ended: its pipe is closed, which happens a moment before it can be seen to have ended.
        """
        if not self.ready and (ended or self._process.poll() is not None or time.monotonic() > self._give_up):
            text = self.errors().splitlines()
            self.close()
            raise ReelkinError(
                f"a process for decoding ({self.module}) does not start: {text[-1] if text else 'it does not answer'}; "
                "check that reelkin is installed for this Python, and the limits on memory and processes"
            )

    @property
    def killed(self) -> bool:
        """A signal ended it."""
        try:
            return self._process.wait(_LAST_SECONDS) < 0
        except subprocess.TimeoutExpired:
            return False

    def send(self, message: dict[str, Any]) -> None:
        """Send a request, or the answer to a question, without waiting: a child that is busy reads it later, and needs
        somebody who listens until then. To a child that is gone nothing is sent."""
        self._outbox.put(json.dumps(message).encode("ascii"))

    def _pass_on(self) -> None:
        """In a thread of its own."""
        while (data := self._outbox.get()) is not None:
            try:
                self.connection.send_bytes(data)
            except OSError:
                return

    def receive(self) -> dict[str, Any] | None:
        """The next message, waited for; None when the child is gone, or talks nonsense (a decoder may have written over
        its memory)."""
        try:
            message = json.loads(self.connection.recv_bytes(LONGEST_MESSAGE))
        except (EOFError, OSError, ValueError, RecursionError):
            return None
        return message if isinstance(message, dict) and isinstance(message.get("number"), int) else None

    def pictures(self, chunk: dict[str, Any]) -> np.ndarray:
        """uint8 [n, H, W, 3] that a message speaks of: a view, valid until it is given back.

        Raises:
            ValueError: the message makes no sense.
        """
        shape = tuple(int(length) for length in chunk["shape"])
        if len(shape) != 4 or shape[0] < 1 or shape[3] != 3 or len(chunk["times"]) != shape[0]:
            raise ValueError(f"a chunk of shape {shape} with {len(chunk['times'])} times")
        return self.arena.view(int(chunk["offset"]), shape)

    def errors(self) -> str:
        """The end of what the child wrote on its standard error."""
        size = os.fstat(self._errors.fileno()).st_size
        text = os.pread(self._errors.fileno(), _ERRORS_READ, max(0, size - _ERRORS_READ))
        return text.decode("utf-8", "replace").strip()

    def why_gone(self) -> DataError:
        """What became of the child, as the reason for which its clip is rejected. Ends it if it still lives."""
        try:
            code = self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self.close()
            return DataError(Reason.DECODER_DIED, "the process that decoded it answered with something senseless")
        if code in (-signal.SIGALRM, -signal.SIGXCPU):
            return DataError(Reason.TIMEOUT, "decoding took longer than the limit")
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(code)
        return DataError(Reason.DECODER_DIED, f"the process that decoded it ended with {name}")

    def close(self) -> None:
        """End the child and let go of everything but pictures that are still in use."""
        self._process.kill()
        try:
            self._process.wait(_REAP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        self._outbox.put(None)
        self._sender.join(_REAP_SECONDS)
        if not self.connection.closed:
            self.connection.close()
            self.arena.close()
            self._errors.close()
