"""Progress that a person can follow: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

FIRST_LINE_SECONDS = 2.0
LINE_EVERY_SECONDS = 10.0


class Progress:
    """Counts done items towards a total and shows them on stderr.

    Args:
        total: number of items, or None when unknown.
        unit: plural name of an item ("videos").
        label: what is being done ("building shards").
        enabled: False on every rank but the first; then only the counting happens.
        total_bytes: sum of the items' sizes; then bytes are shown too, and the time that is left goes by them.
        more: asked now and then for what was done elsewhere since: items, bytes, rejects by reason.

    Several threads may use it.

    Attributes:
        done, rejects, bytes: the counts so far.
        reasons: rejects by reason, where reasons were given.
    """

    def __init__(
        self,
        total: int | None,
        unit: str,
        label: str,
        enabled: bool = True,
        total_bytes: int | None = None,
        more: Callable[[], tuple[int, int, Counter[str]]] | None = None,
    ) -> None:
        self.total, self.unit, self.label, self.total_bytes = total, unit, label, total_bytes
        self.done = self.rejects = self.bytes = 0
        self.reasons: Counter[str] = Counter()
        self._skipped = self._skipped_bytes = 0
        self._more = more
        self._lock = threading.Lock()
        self._note = ""
        self._enabled = enabled
        self._started = time.monotonic()
        self._next_line = self._started + FIRST_LINE_SECONDS
        self._bar: Bar | None = None
        if enabled and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, note="")

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._started

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def skip(self, n: int, bytes: int = 0) -> None:
        """Count items that were done before: they say nothing about the rate."""
        with self._lock:
            self.done, self.bytes = self.done + n, self.bytes + bytes
            self._skipped, self._skipped_bytes = self._skipped + n, self._skipped_bytes + bytes

    def advance(self, n: int = 1, *, bytes: int = 0, rejects: int = 0, reason: str = "", note: str = "") -> None:
        """Count ``n`` more items done, of so many bytes.

        Args:
            rejects: how many of them were rejected.
            reason: why one of them was rejected; counts as a reject.
            note: shown beside (a loss).
        """
        with self._lock:
            self._count(n, bytes, rejects, reason, note)

    def _count(self, n: int, bytes: int, rejects: int, reason: str, note: str) -> None:
        self.done += n
        self.bytes += bytes
        self.rejects += rejects + bool(reason)
        if reason:
            self.reasons[reason] += 1
        self._note = note or self._note
        if self._bar:
            if self._more and time.monotonic() >= self._next_line:
                self._next_line = time.monotonic() + LINE_EVERY_SECONDS
                self._ask_for_more()
            self._bar.update(self._task, completed=self.done, note=self._extras())
        elif self._enabled and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            self._ask_for_more()
            self._line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._enabled:
            self._ask_for_more()
            self._line(last=True)

    def hear(self) -> None:
        """Ask now for what was done elsewhere."""
        with self._lock:
            self._ask_for_more()

    def _ask_for_more(self) -> None:
        if self._more:
            done, size, reasons = self._more()
            self.done, self.bytes, self.rejects = self.done + done, self.bytes + size, self.rejects + reasons.total()
            self.reasons.update(reasons)

    def _extras(self) -> str:
        rejects = f"{self.rejects} rejected" if self.rejects else ""
        if self.reasons:
            rejects += f" ({', '.join(f'{reason} {n}' for reason, n in self.reasons.most_common())})"
        return "  ".join(part for part in (rejects, self._note) if part)

    def _seconds_left(self, seconds: float) -> float | None:
        if self.total_bytes:
            rate, left = (self.bytes - self._skipped_bytes) / seconds, self.total_bytes - self.bytes
        elif self.total is not None:
            rate, left = (self.done - self._skipped) / seconds, self.total - self.done
        else:
            return None
        return max(0, left) / rate if rate > 0 else None

    def _line(self, last: bool = False) -> None:
        seconds = max(1e-9, time.monotonic() - self._started)
        rate = (self.done - self._skipped) / seconds
        text = f"{self.label}: {self.done}{f'/{self.total}' if self.total is not None else ''} {self.unit}"
        if self.total_bytes is not None:
            text += f", {self.bytes / 1e6:.0f}/{self.total_bytes / 1e6:.0f} MB"
        text += f", {rate:.3g} {self.unit}/s"
        if self.total_bytes is not None:
            text += f", {(self.bytes - self._skipped_bytes) / 1e6 / seconds:.3g} MB/s"
        left = self._seconds_left(seconds)
        if last:
            text += f", {seconds:.1f} s in all"
        elif left is not None:
            text += f", about {in_words(left)} left"
        extras = self._extras()
        # A log on a full disk, or a pipe that nobody reads any more, is no reason to lose the work.
        with suppress(OSError):
            print(f"{text}{', ' if extras else ''}{extras}", file=sys.stderr, flush=True)


def in_words(seconds: float) -> str:
    """ "45 s", "12 min", "3.5 h" """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
