"""Batches made ahead by threads: reading and editing is numpy work that lets go of the interpreter."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

from .batches import Batch, BatchBuilder


def prefetched(builder: BatchBuilder, steps: range, workers: int | None = None) -> Generator[Batch, None, None]:
    """The batches of ``steps`` in order, the same bits whatever the number of threads.

    Args:
        builder: makes them.
        steps: which.
        workers: threads; one batch more than these is held ahead of its use. 0 makes each batch when it is asked for.
            Default: the builder's own number.

    An error in a thread is raised where its batch is asked for. Closing the generator waits for what is being made, and
    makes no more.
    """
    workers = builder.num_workers if workers is None else workers
    return _made_ahead(builder, steps, workers) if workers else (builder.build(step) for step in steps)


def _made_ahead(builder: BatchBuilder, steps: range, workers: int) -> Generator[Batch, None, None]:
    waiting: deque[Future[Batch]] = deque()
    remaining = iter(steps)
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="batches") as pool:
        try:
            while True:
                while len(waiting) <= workers and (step := next(remaining, None)) is not None:
                    waiting.append(pool.submit(builder.build, step))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
