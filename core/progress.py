"""Progress that a person can follow: a bar on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
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

    Attributes:
        done, rejects: the counts so far.
    """

    def __init__(self, total: int | None, unit: str, label: str, enabled: bool = True) -> None:
        self.total, self.unit, self.label = total, unit, label
        self.done = self.rejects = 0
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

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def advance(self, n: int = 1, *, rejects: int = 0, note: str = "") -> None:
        """Count ``n`` more items done, ``rejects`` of them rejected; ``note`` (a loss, a rate) is shown beside."""
        self.done += n
        self.rejects += rejects
        self._note = note or self._note
        if self._bar:
            self._bar.update(self._task, completed=self.done, note=self._extras())
        elif self._enabled and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_SECONDS
            self._line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif self._enabled:
            self._line(last=True)

    def _extras(self) -> str:
        rejects = f"{self.rejects} rejected" if self.rejects else ""
        return "  ".join(part for part in (rejects, self._note) if part)

    def _line(self, last: bool = False) -> None:
        seconds = time.monotonic() - self._started
        rate = self.done / seconds if seconds > 0 else 0.0
        text = f"{self.label}: {self.done}{f'/{self.total}' if self.total is not None else ''} {self.unit}"
        text += f", {rate:.3g} {self.unit}/s"
        if last:
            text += f", {seconds:.1f} s in all"
        elif self.total is not None and rate > 0:
            text += f", about {max(0, self.total - self.done) / rate:.0f} s left"
        extras = self._extras()
        print(f"{text}{', ' if extras else ''}{extras}", file=sys.stderr, flush=True)
