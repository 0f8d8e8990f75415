"""Making many copies in several processes: one that a file kills costs that file only."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import DataError, Reason, ReelkinError
from ...core.files import publish_text
from ..video.isolation import ProbePool
from .edited_copy import EditedCopy, OtherFailed, write_copy
from .footage import FileFootage
from .plan import EditPlan

_AHEAD_PER_WORKER = 2


@dataclass(frozen=True)
class Task:
    """One copy to make.

    Attributes:
        plan: its plan.
        source, other: paths of the videos; other is "" without one.
        path: where the copy goes.
        record: where its record goes, written after the copy.
        key: what the copy depends on, for the record.
        short_side, max_seconds, max_fps: as in `EditsConfig`; short_side None keeps the size.
    """

    plan: EditPlan
    source: str
    other: str
    path: Path
    record: Path
    key: str
    short_side: int | None
    max_seconds: float
    max_fps: float


@dataclass(frozen=True)
class Failure:
    """A video that cannot be used: its id, why, and a sentence."""

    video_id: str
    reason: Reason
    detail: str


@dataclass
class _Window:
    """Tasks not yet handed to the pool, and those in it."""

    waiting: deque[Task]
    running: dict[Future[Failure | None], Task] = field(default_factory=dict)


def make(task: Task) -> Failure | None:
    """Make one copy and its record; what is wrong with one of its videos is returned."""
    try:
        source = FileFootage(Path(task.source), task.short_side)
        other = None
        if task.other:
            try:
                other = FileFootage(Path(task.other), task.short_side)
            except DataError as error:
                raise OtherFailed(error.reason, str(error)) from error
        limits = {"max_seconds": task.max_seconds, "max_fps": task.max_fps}
        copy = write_copy(task.plan, source, task.path, other, **limits)
    except OtherFailed as error:
        return Failure(task.plan.other_source_id, error.reason, str(error))
    except DataError as error:
        return Failure(task.plan.source_id, error.reason, str(error))
    publish_text(task.record, json.dumps(_record(task, copy)) + "\n")
    return None


def make_all(tasks: Sequence[Task], workers: int) -> Iterator[tuple[Task, Failure | None]]:
    """Make copies in ``workers`` processes.

    Yields:
        Each task as it ends, in no fixed order, with what was wrong with one of its videos.

    Raises:
        ReelkinError: a copy cannot be written (a full disk).
    """
    window = _Window(deque(tasks))
    while window.waiting:
        suspects: list[Task] = []
        pool = _pool(workers)
        try:
            yield from _run(pool, window, workers * _AHEAD_PER_WORKER)
        except BrokenProcessPool:
            suspects = list(window.running.values())
            window.running.clear()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        # One of these killed its process; each alone in a process of its own, they cannot harm one another.
        for task in suspects:
            yield task, _make_alone(task)


def _run(pool: ProcessPoolExecutor, window: _Window, ahead: int) -> Iterator[tuple[Task, Failure | None]]:
    while window.waiting or window.running:
        while window.waiting and len(window.running) < ahead:
            task = window.waiting.popleft()
            try:
                window.running[pool.submit(make, task)] = task
            except BrokenProcessPool:
                window.waiting.appendleft(task)
                raise
        done, _ = wait(window.running, return_when=FIRST_COMPLETED)
        for future in done:
            outcome = future.result()
            yield window.running.pop(future), outcome


def _make_alone(task: Task) -> Failure | None:
    with _pool(1) as pool:
        try:
            return pool.submit(make, task).result()
        except BrokenProcessPool:
            pass
    # Whose fault was it? Decoding each alone tells; when neither dies again the copied one is blamed.
    if task.other:
        with ProbePool(1, check="full") as probes:
            for video_id, path in ((task.plan.source_id, task.source), (task.plan.other_source_id, task.other)):
                found = next(iter(probes.map([(path, os.path.getsize(path))])))
                if isinstance(found, DataError):
                    return Failure(video_id, found.reason, str(found))
    return Failure(task.plan.source_id, Reason.DECODER_DIED, "the process that copied it was killed")


def _pool(workers: int) -> ProcessPoolExecutor:
    # Fresh interpreters: a fork would copy locks that other threads of this process hold.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_as_worker)


def _as_worker() -> None:
    # Ctrl-C reaches every process of the terminal: copies in work are finished, the parent decides about the rest.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A parent that is killed takes its workers with it (Linux: prctl PR_SET_PDEATHSIG), instead of leaving orphans.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _record(task: Task, copy: EditedCopy) -> dict[str, Any]:
    def rows(segments: Sequence[Any]) -> list[list[float]]:
        return [[s.source_start, s.source_end, s.copy_start, s.copy_end] for s in segments]

    return {
        "key": task.key,
        "bytes": task.path.stat().st_size,
        "width": copy.width,
        "height": copy.height,
        "fps": float(copy.fps),
        "segments": rows(copy.segments),
        "other_segments": rows(copy.other_segments),
    }


def read_record(path: Path) -> dict[str, Any] | None:
    """A copy's record, or None when there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise ReelkinError(f"the record {path} is damaged ({error}); remove it, the copy is then made again") from error
    return record if isinstance(record, dict) else None
