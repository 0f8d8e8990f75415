"""One query's ranking under one measure: places of its positives, without ordering what lies between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .averages import Floats, expected_gains, threshold_gains, trapezoid_gains
from .measures import Average


class Ranked:
    """The ranked videos of a query: those that are candidates and have a score.

    Args:
        row_V: scores of all columns; NaN where there is none.
        candidates_V: which columns the protocol ranks.
        listed_V: the place at which the scores list each column for this query, where the order of ties counts; None:
            they list them in the order of the columns.
    """

    def __init__(
        self,
        row_V: NDArray[np.floating],
        candidates_V: NDArray[np.bool_],
        listed_V: NDArray[np.integer] | None = None,
    ) -> None:
        self.row_V = row_V
        self.listed_V = listed_V
        self.mask_V: NDArray[np.bool_] = candidates_V & ~np.isnan(row_V)
        self.num_unscored = int(np.count_nonzero(candidates_V)) - int(np.count_nonzero(self.mask_V))

    @cached_property
    def rising_R(self) -> NDArray[np.floating]:
        """Scores of the ranked videos, rising."""
        return np.sort(self.row_V[self.mask_V])

    def num_above(self, scores: NDArray[np.floating]) -> NDArray[np.int64]:
        """Ranked videos with a higher score than each of ``scores``."""
        return len(self.rising_R) - np.searchsorted(self.rising_R, scores, side="right")

    def num_from(self, scores: NDArray[np.floating]) -> NDArray[np.int64]:
        """Ranked videos with at least each of ``scores``."""
        return len(self.rising_R) - np.searchsorted(self.rising_R, scores, side="left")

    def counts(self, falling_G: NDArray[np.floating]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`num_above` and `num_from` of falling scores; quick too when there are far more of them than videos."""
        size = len(falling_G)
        if size <= len(self.rising_R):
            return self.num_above(falling_G), self.num_from(falling_G)
        rising_G = falling_G[::-1]
        below_R = np.searchsorted(rising_G, self.rising_R, side="left")
        upto_R = np.searchsorted(rising_G, self.rising_R, side="right")
        above_G, from_G = (np.cumsum(np.bincount(size - n_R, minlength=size + 1)[:size]) for n_R in (below_R, upto_R))
        return above_G, from_G

    def places(self, columns_P: NDArray[np.int64], *, last_first: bool) -> NDArray[np.int64]:
        """Place (from 0) of ranked columns when ties are in the order in which they are listed, or in its reverse."""
        scores_P = self.row_V[columns_P]
        above_P, from_P = self.num_above(scores_P), self.num_from(scores_P)
        if np.array_equal(from_P, above_P + 1):
            return above_P
        # place in a rising stable sort, in which equal scores are in the order in which they are listed
        rising_P = self._rising_places[np.cumsum(self.mask_V)[columns_P] - 1]
        if last_first:
            return len(self.rising_R) - 1 - rising_P
        return above_P + rising_P - (len(self.rising_R) - from_P)

    def listed(self, columns_P: NDArray[np.int64]) -> NDArray[np.int64]:
        """At which place the scores list each of some columns for this query."""
        return columns_P if self.listed_V is None else self.listed_V[columns_P].astype(np.int64)

    @cached_property
    def _rising_places(self) -> NDArray[np.int64]:
        row_R = self.row_V[self.mask_V]
        if self.listed_V is None:
            order_R = np.argsort(row_R, kind="stable")
        else:
            order_R = np.lexsort((self.listed_V[self.mask_V], row_R))
        places_R = np.empty(len(order_R), dtype=np.int64)
        places_R[order_R] = np.arange(len(order_R))
        return places_R

    def best_wrong(self, positives_P: NDArray[np.int64]) -> tuple[int, float] | None:
        """Column and score of the highest ranked video that is no positive; of tied ones the first column."""
        wrong_V = self.mask_V.copy()
        wrong_V[positives_P] = False
        columns = np.flatnonzero(wrong_V)
        if not len(columns):
            return None
        best = int(columns[np.argmax(self.row_V[columns])])
        return best, float(self.row_V[best])

    def best_of(self, columns_P: NDArray[np.int64], at_most: float) -> tuple[int, float] | None:
        """Column and score of the highest ranked of ``columns_P`` whose score is not above ``at_most``; else None."""
        columns = columns_P[self.row_V[columns_P] <= at_most]
        if not len(columns):
            return None
        best = int(columns[np.argmax(self.row_V[columns])])
        return best, float(self.row_V[best])

    def place_of(self, score: float) -> int:
        """Place of a ranked score, from 1; of tied videos the first."""
        return int(self.num_above(np.array([score], dtype=self.row_V.dtype))[0]) + 1


@dataclass(frozen=True)
class Groups:
    """Groups of tied videos that hold a positive, from the best; as in `averages`."""

    before_G: Floats
    size_G: Floats
    hits_G: Floats


def positive_groups(ranked: Ranked, positives_P: NDArray[np.int64], average: Average) -> Groups:
    """Groups of a query's ranked positives (columns); one for each positive where the order of ties counts."""
    if average in (Average.EXPECTED, Average.THRESHOLDS):
        scores_G, hits_G = np.unique(ranked.row_V[positives_P], return_counts=True)
        scores_G, hits_G = scores_G[::-1], hits_G[::-1]
        above_G = ranked.num_above(scores_G)
        return Groups(_floats(above_G), _floats(ranked.num_from(scores_G) - above_G), _floats(hits_G))
    places_P = np.sort(ranked.places(positives_P, last_first=average is Average.LAST_FIRST))
    ones = np.ones(len(places_P))
    return Groups(_floats(places_P), ones, ones)


def average_precision(groups: Groups, total: int, average: Average) -> float:
    """Average precision of one ranking with ``total`` positives (at least 1) in all."""
    if not len(groups.before_G):
        return 0.0
    if average is Average.TRAPEZOID:
        gains = trapezoid_gains(groups.before_G)
    elif average is Average.THRESHOLDS:
        gains = threshold_gains(groups.before_G, groups.size_G, groups.hits_G)
    else:
        gains = expected_gains(groups.before_G, groups.size_G, groups.hits_G)
    return min(float(gains.sum()) / total, 1.0)


def columns_of(ids: Sequence[str] | frozenset[str], columns: Mapping[str, int]) -> NDArray[np.int64]:
    """Columns of those ids that have one, rising."""
    return np.sort(np.array([columns[video_id] for video_id in ids if video_id in columns], dtype=np.int64))


def _floats(values: NDArray[np.integer]) -> Floats:
    return values.astype(np.float64)
