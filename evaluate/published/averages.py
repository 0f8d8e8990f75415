"""Average precision from places: how many videos rank before each positive, without sorting or labelling all of them.

A group is a set of videos with one score, of which ``hits`` are positive; ``before`` videos rank above it and ``size``
are in it. Only groups with a positive matter. Everything works along the last axis, which runs from the best group to
the worst, so that one call takes many rankings (resamples) at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVELS: Floats = np.linspace(0, 1, 101)
"""Recalls of an averaged precision-recall curve."""

_TABLE: Floats = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 256))])
"""Harmonic numbers H(0) to H(255)."""


def _tail(x: Floats) -> Floats:
    """H(x) - ln(x) - gamma for x >= 256, to double precision (Euler-Maclaurin)."""
    inverse = 1.0 / x
    square = inverse * inverse
    return inverse * (0.5 - inverse * (1 / 12 - square * (1 / 120 - square / 252)))


def harmonic_difference(before: Floats, size: Floats) -> Floats:
    """Sum of 1 / (before + i) for i = 1..size, for whole numbers given as floats; no cancellation for large places."""
    before, size = np.broadcast_arrays(before, size)
    after = before + size
    few = len(_TABLE) - 1
    # the part up to place 255 from the table, the rest by the expansion
    split = np.clip(after, None, few).astype(np.int64)
    begin = np.clip(before, None, few).astype(np.int64)
    total = _TABLE[split] - _TABLE[begin]
    start = np.maximum(before, float(few))
    beyond = after > start
    if beyond.any():
        x, y = start[beyond], after[beyond]
        total[beyond] += np.log1p((y - x) / x) + (_tail(y) - _tail(x))
    return total


def expected_gains(before: Floats, size: Floats, hits: Floats, found: Floats | float = 0.0) -> Floats:
    """What each group adds to the sum of precisions, in the mean over all orders of its videos; same shape.

    A place i of a group holds a positive with probability hits/size and, given that, each of the i - 1 places before it
    in the group holds one with (hits - 1)/(size - 1): precision there is (earlier + 1 + (i - 1)(hits - 1)/(size - 1)) /
    (before + i). A group whose videos are all positive is the case of copies of one video, in any order.

    Args:
        before, size, hits: [..., G] whole numbers.
        found: [..., 1] positives in groups that come before these.
    """
    earlier = np.cumsum(hits, axis=-1) - hits + found
    inverse = harmonic_difference(before, size)
    # sum of (i - 1) / (before + i)
    inside = size - (before + 1.0) * inverse
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(size > 0, hits / size, 0.0)
        slope = np.where(size > 1, (hits - 1.0) / (size - 1.0), 0.0)
    return np.where(hits > 0, share * ((earlier + 1.0) * inverse + slope * inside), 0.0)


def trapezoid_gains(before: Floats) -> Floats:
    """EVVE's published form for untied positives: the mean of the precision just before a positive and at it.

    Before the first place precision is taken as 1.
    """
    earlier = np.arange(before.shape[-1], dtype=np.float64)
    left = np.where(before == 0, 1.0, earlier / np.maximum(before, 1.0))
    return (left + (earlier + 1.0) / (before + 1.0)) / 2.0


def threshold_gains(before: Floats, size: Floats, hits: Floats) -> Floats:
    """scikit-learn's form: every positive of a group counts with the precision at the group's end."""
    found = np.cumsum(hits, axis=-1)
    return hits * found / (before + size)


def interpolated_precision(before: Floats, size: Floats, hits: Floats, total: int, levels: Floats) -> Floats:
    """Highest precision at a recall of at least each level [L], as in averaged precision-recall curves; 0 beyond."""
    found = np.cumsum(hits)
    recall, precision = found / total, found / (before + size)
    best_from = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best_from[np.searchsorted(recall, levels - 1e-12, side="left")]
