"""A deadline for every collective, kept by a thread of our own.

A collective in which one rank is missing waits for ever: Horovod's stall shutdown has no effect under gloo, and
torch.distributed's time limits cannot be lengthened for a single piece of work. So a thread counts how long the main
thread has been waiting. When the time is up it asks every other rank where it is (see `peers`), writes which collective
and which ranks are missing, dumps the stacks of all threads, tells the other ranks to end (they dump their stacks too,
which shows where a lost rank hangs), kills a silent process of the same machine, and ends this process with
``os._exit(1)``: from the middle of a collective no orderly way leads out. The launcher sees the failure.

Waiting is counted in ticks of the thread. If the whole process is stopped (a suspended job) and later continued, the
pause is one tick and does not use up the deadline.
"""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

from ..errors import ReelkinError, UsageError
from .peers import JOIN_SECONDS, Channel

LAST_WORDS = 1000
"""Characters of an error that a rank tells the others; more of it stands in its own output."""

FAREWELL_SECONDS = 5.0
"""How long a rank on its way out waits for rank 0 to take its last words down, and a rank whose deadline is over for
its own to be written."""


class RankLost(ReelkinError):
    """A collective failed because another rank has ended: a consequence, whose cause that rank knows."""


@dataclass
class Wait:
    """One stay of the main thread in a collective."""

    sequence: int
    label: str
    limit_seconds: float
    waited_seconds: float = 0.0


class Watchdog:
    """Counts the time spent in collectives and ends the run when one takes too long.

    Args:
        rank: this process's rank as far as known (for the report).
        size: number of ranks.
        deadline_seconds: longest stay in one collective.

    Attributes:
        tell: see `Engine.when_others_fail`.
        farewells: why other ranks left, a sentence each, in the order in which they said so; rank 0 alone is told.
    """

    def __init__(self, rank: int, size: int, deadline_seconds: float) -> None:
        self.rank = rank
        self.size = size
        self.deadline_seconds = deadline_seconds
        self.extra_seconds = 0.0
        self.channel: Channel | None = None
        self.tell: Callable[[str, bool], None] = lambda sentence, usage: None
        self.farewells: dict[int, str] = {}
        self._wait: Wait | None = None
        self._last = ""
        self._left = ""
        self._ending = threading.Lock()
        self._stop = threading.Event()
        self._tick_seconds = min(0.25, deadline_seconds / 20)
        self._thread = threading.Thread(target=self._run, name="reelkin-deadline", daemon=True)
        self._thread.start()

    @contextmanager
    def waiting(self, sequence: int, label: str, at_least: float = 0.0) -> Iterator[None]:
        """Mark the body as a stay in the collective ``label``, at most the deadline (or ``at_least`` seconds) long."""
        outer = self._wait
        self._wait = Wait(sequence, label, max(self.deadline_seconds, at_least) + self.extra_seconds)
        try:
            yield
        finally:
            self._wait, self._last = outer, label

    def leave(self, error: BaseException) -> None:
        """Note that this rank is on its way out with ``error``: rank 0 is told now, others when they ask.

        Now, because a launcher that sees this process end may end rank 0 before that can ask.
        """
        self._left = f"{type(error).__name__}: {error}"[:LAST_WORDS]
        if self.channel is None or 0 not in self.channel.peers or not isinstance(error, Exception):
            return
        if not isinstance(error, RankLost):
            text = json.dumps({"rank": self.rank, "left": self._left, "usage": isinstance(error, UsageError)})
            self.channel.ask("left", [0], FAREWELL_SECONDS, text)

    def farewell(self, text: str) -> None:
        """Take down what another rank's `leave` told."""
        said = json.loads(text)
        rank = int(said["rank"])
        assert self.channel is not None
        self.farewells[rank] = f"{self.channel.peers[rank]} left with {said['left']}"
        self.tell(self.farewells[rank], bool(said["usage"]))

    def close(self) -> None:
        """Stop watching and answering. No thread is left that the interpreter's end would have to cut off."""
        self._stop.set()
        if self.channel is not None:
            self.channel.close()
        self._thread.join(JOIN_SECONDS)

    def position(self) -> dict[str, Any]:
        """What this rank answers to "where": plain values."""
        wait = self._wait
        return {
            "sequence": wait.sequence if wait else -1,
            "label": wait.label if wait else "",
            "last": self._last,
            "left": self._left,
        }

    def missing(self, wait: Wait | None, seconds: float) -> tuple[list[str], list[int]]:
        """Ask all other ranks where they are.

        Returns:
            A sentence for each rank that is not in the collective ``wait`` (if None: that left or does not answer), and
            the ranks that do not answer at all.
        """
        if self.channel is None:
            return [], []
        sentences, silent = [], []
        answers = self.channel.ask("where", self.channel.peers, seconds)
        for rank, answer in answers.items():
            peer = self.channel.peers[rank]
            if answer is None:
                silent.append(rank)
                sentences.append(self.farewells.get(rank, f"{peer} does not answer (stopped or gone)"))
            elif answer["left"]:
                sentences.append(f"{peer} left with {answer['left']}")
            elif wait is None or (answer["label"] and answer["sequence"] == wait.sequence):
                continue
            elif answer["label"]:
                sentences.append(f"{peer} is at {answer['label']}")
            else:
                sentences.append(f"{peer} is not in a collective (its last: {answer['last'] or 'none'})")
        return sentences, silent

    def _run(self) -> None:
        seen = time.monotonic()
        # A lower rank gives up a moment earlier, so that of many waiting ranks usually one reports and tells the rest.
        stagger = min(0.2 * self.deadline_seconds, 0.02 * self.rank)
        while not self._stop.wait(self._tick_seconds):
            now = time.monotonic()
            wait = self._wait
            if wait is not None:
                wait.waited_seconds += min(now - seen, 4 * self._tick_seconds)
                if wait.waited_seconds > wait.limit_seconds + stagger:
                    self._expire(wait)
            seen = now

    def _expire(self, wait: Wait) -> None:
        if not self._ending.acquire(blocking=False):
            return  # another rank's word to end has just come in; that thread ends the process
        patience = min(5.0, max(0.5, 0.2 * self.deadline_seconds))
        missing, silent = self.missing(wait, patience)
        who = f"rank {self.rank} of {self.size} (host {socket.gethostname()}, pid {os.getpid()})"
        headline = f"{who} waited {wait.waited_seconds:.1f} s in {wait.label}, over the deadline"
        if self.channel is None:
            missing = [f"not all {self.size} ranks arrived; who is missing is not known before the engine has started"]
        elif not missing:
            missing = ["every rank is in this collective: the network or the backend hangs"]
        verdict = headline + "".join(f"\n  missing: {sentence}" for sentence in missing)
        _say_with_stacks(f"{verdict}\nending this run; the stacks of this rank:")
        self._tell_in_time(verdict)
        if self.channel is not None:
            others = [rank for rank in self.channel.peers if rank not in silent]
            self.channel.ask("end", others, patience, verdict)
            for rank in silent:
                if self.channel.kill(self.channel.peers[rank]):
                    _say(f"rank {self.rank} killed the silent {self.channel.peers[rank]}")
        _exit_hard()

    def end(self, verdict: str) -> None:
        """End this process because another rank gave up waiting."""
        if self._ending.acquire(blocking=False):
            _say_with_stacks(f"rank {self.rank} ends because another rank gave up:\n{verdict}\nits stacks:")
            self._tell_in_time(verdict)
            _exit_hard()

    def _tell_in_time(self, verdict: str) -> None:
        # The disk on which it is to be written may be what hangs.
        teller = threading.Thread(target=self.tell, args=(verdict, False), daemon=True)
        teller.start()
        teller.join(FAREWELL_SECONDS)


def _say(text: str) -> None:
    # Straight to the descriptor: sys.stderr may be captured, or its lock held by a thread that will never come back.
    try:
        os.write(2, f"reelkin: {text}\n".encode(errors="replace"))
    except OSError:
        pass


def _say_with_stacks(text: str) -> None:
    _say(text)
    try:
        faulthandler.dump_traceback(file=2, all_threads=True)
    except (OSError, ValueError, RuntimeError):
        pass


def _exit_hard() -> NoReturn:
    # What the rank printed so far should not be lost; but the stream's lock may be held, so only for a moment.
    flusher = threading.Thread(target=sys.stdout.flush, daemon=True)
    flusher.start()
    flusher.join(0.5)
    os._exit(1)
