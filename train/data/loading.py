"""Batches made ahead by threads: reading and editing is numpy work that lets go of the interpreter."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from .batches import Batch, BatchBuilder


@dataclass
class _Clock:
    seconds: float = 0.0


class Prefetched(Iterator[Batch]):
    """Made by `prefetched`.

    Attributes:
        waited_seconds: how long the consumer has waited for batches that were not ready, so far.
    """

    def __init__(self, builder: BatchBuilder, steps: range, workers: int) -> None:
        self._clock = _Clock()
        make = _made_ahead if workers else _made_when_asked
        self._batches = make(builder, steps, workers, self._clock)

    @property
    def waited_seconds(self) -> float:
        """See the class."""
        return self._clock.seconds

    def __next__(self) -> Batch:
        return next(self._batches)

    def close(self) -> None:
        """Make no more batches. What is being made is waited for."""
        self._batches.close()


def prefetched(builder: BatchBuilder, steps: range, workers: int | None = None) -> Prefetched:
    """The batches of ``steps`` in order, the same bits whatever the number of threads.

    Args:
        builder: makes them.
        steps: which.
        workers: threads; one batch more than these is held ahead of its use. 0 makes each batch when it is asked for.
            Default: the builder's own number.

    An error in a thread is raised where its batch is asked for.
    """
    return Prefetched(builder, steps, builder.num_workers if workers is None else workers)


def _made_ahead(builder: BatchBuilder, steps: range, workers: int, clock: _Clock) -> Generator[Batch, None, None]:
    # It knows the clock and not the iterator that holds it, so that an abandoned iterator ends at once.
    waiting: deque[Future[Batch]] = deque()
    remaining = iter(steps)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="batches") as pool:
        try:
            while True:
                while len(waiting) <= workers and (step := next(remaining, None)) is not None:
                    waiting.append(pool.submit(builder.build, step))
                if not waiting:
                    return
                begun = time.perf_counter()
                batch = waiting.popleft().result()
                clock.seconds += time.perf_counter() - begun
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def _made_when_asked(builder: BatchBuilder, steps: range, workers: int, clock: _Clock) -> Generator[Batch, None, None]:
    for step in steps:
        begun = time.perf_counter()
        batch = builder.build(step)
        clock.seconds += time.perf_counter() - begun
        yield batch
