"""Micro average precision: all pairs of all queries in one ranking, which is never built.

Positives of all queries give thresholds; every query says how many of its videos rank before each. Those counts add up,
and with weights they give every bootstrap resample of the queries at once. A query that is drawn twice is there twice:
its copies tie.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .averages import Floats, expected_gains
from .measures import Average
from .ranking import Groups, Ranked

MAX_COUNTS = 8_000_000
"""Counts (queries x thresholds) held at a time, 96 MB; with more thresholds the scores are walked several times."""
MAX_WEIGHTED = 1_000_000
"""Weighted counts (resamples x thresholds) computed at a time, about 100 MB with what goes with them."""


@dataclass(frozen=True)
class _Thresholds:
    """Of EXPECTED one per score of a positive, else one per positive, with its query and column; best first."""

    scores_G: NDArray[np.floating]
    query_G: NDArray[np.int64]
    column_G: NDArray[np.int64]


class Pool:
    """One pooled measure. First `collect` every query, then for `num_walks` walks `count` every query and `finish`.

    Args:
        average: EXPECTED, or LAST_FIRST (queries in the reverse of their order, and each one's videos in the reverse of
            the order in which they are listed).
        weights_NQ: how often each query is drawn; row 0 is all ones, the figure itself.
    """

    def __init__(self, average: Average, weights_NQ: Floats) -> None:
        if average not in (Average.EXPECTED, Average.LAST_FIRST):
            raise ValueError(f"{average} has no pooled form")
        self.average = average
        self.weights_NQ = weights_NQ
        num_queries = weights_NQ.shape[1]
        self.totals_Q = np.zeros(num_queries)
        self._found: list[tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.floating]]] = []
        self._gains_N = np.zeros(len(weights_NQ))
        self._hits_N = np.zeros(len(weights_NQ))
        self._curve: list[Groups] = []
        self._own_gains: list[Floats] = []
        self._counts: NDArray[np.int32] = np.zeros((3, 0, 0), dtype=np.int32)
        self._step = max(1, MAX_COUNTS // max(num_queries, 1))
        self._walk = 0

    def collect(self, query: int, ranked: Ranked, positives_P: NDArray[np.int64], total: int) -> None:
        """Take note of a query's ranked positives (columns), and of how many it has in all."""
        self.totals_Q[query] = total
        self._found.append((query, positives_P, ranked.listed(positives_P), ranked.row_V[positives_P]))

    @property
    def num_walks(self) -> int:
        """How often all queries must be counted; known after all were collected."""
        return -(-len(self.thresholds.scores_G) // self._step)

    @property
    def thresholds(self) -> _Thresholds:
        """All thresholds; made when first asked for."""
        if not hasattr(self, "_thresholds"):
            self._thresholds = self._make_thresholds()
        return self._thresholds

    def _make_thresholds(self) -> _Thresholds:
        none = np.zeros(0, dtype=np.int64)
        scores = np.concatenate([scores_P for *_, scores_P in self._found] or [np.zeros(0, np.float32)])
        if self.average is Average.EXPECTED:
            return _Thresholds(np.unique(scores)[::-1], none, none)
        query = np.concatenate([np.full(len(columns_P), q) for q, columns_P, *_ in self._found] or [none])
        column = np.concatenate([columns_P for _, columns_P, *_ in self._found] or [none])
        listed = np.concatenate([listed_P for _, _, listed_P, _ in self._found] or [none])
        order = np.lexsort((listed, query, scores))[::-1]
        return _Thresholds(scores[order], query[order], column[order])

    def count(self, query: int, ranked: Ranked, positives_P: NDArray[np.int64]) -> None:
        """Count one query's ranked videos before and in each threshold's group; every query once in a walk."""
        begin = self._walk * self._step
        chunk = slice(begin, begin + self._step)
        scores_G = self.thresholds.scores_G[chunk]
        if self._counts.shape[2] != len(scores_G):
            self._counts = np.zeros((3, self.weights_NQ.shape[1], len(scores_G)), dtype=np.int32)
        before_G, size_G, hits_G = self._counts[:, query]
        above_G, from_G = ranked.counts(scores_G)
        if self.average is Average.EXPECTED:
            before_G[:] = above_G
            size_G[:] = from_G - above_G
            hits_G[:] = _hits(ranked.row_V[positives_P], scores_G)
            return
        owner_G = self.thresholds.query_G[chunk]
        before_G[:] = np.where(query > owner_G, from_G, above_G)
        own = np.flatnonzero(owner_G == query)
        before_G[own] = ranked.places(self.thresholds.column_G[chunk][own], last_first=True)
        size_G[:] = hits_G[:] = owner_G == query

    def finish(self) -> None:
        """End a walk: add up what was counted."""
        step = max(1, MAX_WEIGHTED // len(self.weights_NQ))
        for begin in range(0, self._counts.shape[2], step):
            part = self._counts[:, :, begin : begin + step].astype(np.float64)
            before_NG, size_NG, hits_NG = (self.weights_NQ @ counts_QG for counts_QG in part)
            gains_NG = expected_gains(before_NG, size_NG, hits_NG, self._hits_N[:, None])
            self._gains_N += gains_NG.sum(axis=1)
            self._hits_N += hits_NG.sum(axis=1)
            self._own_gains.append(gains_NG[0].copy())
            # copies: a view would keep all resamples
            self._curve.append(Groups(before_NG[0].copy(), size_NG[0].copy(), hits_NG[0].copy()))
        self._walk += 1

    @property
    def values_N(self) -> Floats:
        """The figure, then that of each resample; NaN where no positive was drawn.

        The figure is the same to the last bit for any number of resamples, which sets how many thresholds are taken at
        a time: its sum is rounded once.
        """
        totals_N = self.weights_NQ @ self.totals_Q
        gains_N = self._gains_N.copy()
        gains_N[0] = math.fsum(gain for gains_G in self._own_gains for gain in gains_G.tolist())
        with np.errstate(invalid="ignore"):
            return np.where(totals_N > 0, np.minimum(gains_N / totals_N, 1.0), np.nan)

    @property
    def curve(self) -> tuple[Groups, NDArray[np.floating]]:
        """All groups of the figure's own ranking, best first, and their scores."""
        parts = [[getattr(groups, name) for groups in self._curve] for name in ("before_G", "size_G", "hits_G")]
        before_G, size_G, hits_G = (np.concatenate(arrays or [np.zeros(0)]) for arrays in parts)
        return Groups(before_G, size_G, hits_G), self.thresholds.scores_G


def _hits(scores_P: NDArray[np.floating], falling_G: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many of ``scores_P`` equal each of ``falling_G`` (distinct, falling)."""
    rising_G = falling_G[::-1]
    below = scores_P <= rising_G[-1]
    place_P = np.searchsorted(rising_G, scores_P[below])
    place_P = place_P[rising_G[place_P] == scores_P[below]]
    return np.bincount(len(rising_G) - 1 - place_P, minlength=len(rising_G))


def draw_weights(num_queries: int, num_resamples: int, seed: int) -> Floats:
    """How often each query is drawn: [1 + num_resamples, num_queries], row 0 all ones; each row sums to the queries."""
    rng = np.random.Generator(np.random.Philox(seed))
    weights = np.ones((1 + num_resamples, num_queries))
    for row in weights[1:]:
        row[:] = np.bincount(rng.integers(0, num_queries, num_queries), minlength=num_queries)
    return weights
