"""Which pictures of which clips are decoded together: batches mix clips, in their order, and stay within a budget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Budget:
    """The most that a batch may hold.

    Attributes:
        bytes: of decoded pictures in their stored size, of scaled ones, and of the files.
        pictures: distinct ones.
        samples: clips, or parts of clips.
    """

    bytes: int
    pictures: int
    samples: int


BUDGETS = {"cpu": Budget(256 << 20, 512, 16), "gpu": Budget(2 << 30, 2048, 32)}
"""Defaults for DALI, by device."""


@dataclass(frozen=True, eq=False)
class Need:
    """What a clip asks for.

    Attributes:
        indices: int64 [T], ascending, repeats allowed; a picture that is repeated is decoded once.
        picture_bytes: of one picture in all its sizes.
        file_bytes: of its file.
    """

    indices: np.ndarray
    picture_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Part:
    """Positions ``first`` to ``last`` (exclusive) of the indices of clip number ``clip``."""

    clip: int
    first: int
    last: int


def form_batches(needs: Sequence[Need], budget: Budget) -> Iterator[list[Part]]:
    """Divide clips among batches.

    A clip that alone is over the budget is asked for in several parts, each in a batch of its own; a part has one
    picture at least, whatever the budget.

    Yields:
        The parts of a batch, at least one. All parts of all clips come in order; a clip without indices has none.
    """
    batch: list[Part] = []
    held_bytes = held_pictures = 0
    for number, need in enumerate(needs):
        for part, pictures in _parts(number, need, budget):
            size = need.file_bytes + pictures * need.picture_bytes
            full = len(batch) == budget.samples or held_pictures + pictures > budget.pictures
            if batch and (full or held_bytes + size > budget.bytes):
                yield batch
                batch, held_bytes, held_pictures = [], 0, 0
            batch.append(part)
            held_bytes, held_pictures = held_bytes + size, held_pictures + pictures
    if batch:
        yield batch


def _parts(number: int, need: Need, budget: Budget) -> Iterator[tuple[Part, int]]:
    """The parts of a clip with their numbers of distinct pictures."""
    if not len(need.indices):
        return
    most = max(1, min(budget.pictures, (budget.bytes - need.file_bytes) // max(1, need.picture_bytes)))
    distinct = np.concatenate([[0], np.cumsum(np.diff(need.indices) != 0)])  # how many other pictures come before
    first = 0
    for start in range(0, int(distinct[-1]) + 1, most):
        last = int(np.searchsorted(distinct, start + most))
        yield Part(number, first, last), int(distinct[last - 1]) - start + 1
        first = last
