"""Two systems judged again on the queries and videos that both have, so that every figure is of the same task.

Positives are then the same for both, and so are the resamples of the queries: each measure has a paired interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ReelkinError
from ...core.ids import some_of
from ...search.text import shown
from ..published.annotation import Annotation
from ..published.averages import Floats
from ..published.measures import Measure, Present
from ..published.outcome import Outcome
from ..published.pooling import draw_weights
from ..published.protocols import make_measures
from ..published.saved_scores import SavedScores
from ..published.scoring import evaluate_scores, wanted
from .comparison import Difference, interval, wins_and_losses


@dataclass(frozen=True)
class CommonScores:
    """A system's scores of what both have; see `scoring.Scores`.

    Attributes:
        own: its scores.
        queries: ids in both.
        database: the C ids in both, in the order of its own columns, in which some protocols keep ties.
        columns_C: its columns of these.
        other: the other's scores.
        other_C: the other's columns of the same videos.
        both_only: leave out pairs that the other has not scored.
    """

    own: SavedScores
    queries: Sequence[str]
    database: Sequence[str]
    columns_C: NDArray[np.int64]
    other: SavedScores
    other_C: NDArray[np.int64]
    both_only: bool = False

    def rows(self, queries: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        """A row [C] for each of ``queries``, NaN where a pair has no score. Raises KeyError."""
        if not self.both_only:
            return (own_V[self.columns_C] for own_V in self.own.rows(queries))
        return (np.where(there_C, own_C, np.nan) for own_C, there_C in self._beside(queries))

    def lone(self, queries: Sequence[str]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each query the pairs [C] that it alone has scored, and those that the other alone has."""
        for own_C, there_C in self._beside(queries):
            here_C = ~np.isnan(own_C)
            yield here_C & ~there_C, there_C & ~here_C

    def _beside(self, queries: Sequence[str]) -> Iterator[tuple[NDArray[np.floating], NDArray[np.bool_]]]:
        """Rows [C], and which of their pairs the other has scored."""
        for own_V, other_V in zip(self.own.rows(queries), self.other.rows(queries), strict=True):
            yield own_V[self.columns_C], ~np.isnan(other_V[self.other_C])

    def listed(self, query: str) -> NDArray[np.int32] | None:
        """The place at which the query's list has each video [C]; None: in the order of ``database``."""
        listed_V = self.own.listed(query)
        return None if listed_V is None else listed_V[self.columns_C]


@dataclass(frozen=True)
class JudgedAgain:
    """What two systems are on the queries and videos that both have.

    Attributes:
        differences: one for each figure that has a value.
        coverage: "queries" and "database": how many both have, of how many.
        notes: what is not alike in the two, and what has no figure.
    """

    differences: list[Difference]
    coverage: Mapping[str, tuple[int, int]]
    notes: list[str]


def judge_again(
    a: SavedScores,
    b: SavedScores,
    annotation: Annotation,
    protocol: str,
    *,
    leave_out: bool,
    num_resamples: int,
    level: float,
    seed: int,
) -> JudgedAgain:
    """Judge two systems on what both have.

    Args:
        a, b: their scores, ids in the annotation's spelling.
        annotation: the ground truth of both.
        protocol: of both.
        leave_out: take pairs that only one has scored out of both; else they are for each what the protocol makes of a
            pair without a score. Where it leaves such pairs out they are left out of both in any case.
        num_resamples: of the paired bootstrap over queries.
        level: of its intervals.
        seed: of its draws.

    Raises:
        ReelkinError: no query or no video is in both.
    """
    sides = _common(a, b, annotation)
    queries, database = sides[0].queries, sides[0].database
    notes, annotation, leave_out = _lone_pairs(sides, annotation, protocol, leave_out)
    weights_NQ = draw_weights(len(queries), num_resamples, seed)
    outcomes = [
        evaluate_scores(
            annotation, replace(side, both_only=leave_out), protocol=protocol, num_resamples=num_resamples, seed=seed
        )
        for side in sides
    ]
    differences = _Paired(annotation, queries, weights_NQ, level, notes).differences(*outcomes)
    named = annotation.named if annotation.database is None else ()
    num_videos = len(annotation.database or {*a.database, *b.database, *named})
    coverage = {"queries": (len(queries), len(annotation.queries)), "database": (len(database), num_videos)}
    return JudgedAgain(differences, coverage, notes)


def _common(a: SavedScores, b: SavedScores, annotation: Annotation) -> tuple[CommonScores, CommonScores]:
    """The scores of what both have. Raises ReelkinError if that is nothing."""
    in_both = set(a.queries) & set(b.queries)
    queries = [query for query in annotation.queries if query in in_both]
    videos = set(a.database) & set(b.database)
    for what, found, of_a, of_b in (
        ("query", queries, a.queries, b.queries),
        ("video", videos, a.database, b.database),
    ):
        if not found:
            raise ReelkinError(
                f"a and b have no {what} in common, so nothing can be compared: a has {len(of_a):,} "
                f"({some_of(of_a[:3])}), b {len(of_b):,} ({some_of(of_b[:3])})"
            )
    column_of = [{video_id: column for column, video_id in enumerate(side.database)} for side in (a, b)]

    def side(own: SavedScores, own_of: dict[str, int], other: SavedScores, other_of: dict[str, int]) -> CommonScores:
        database = [video_id for video_id in own.database if video_id in videos]
        columns = [np.array([of[video_id] for video_id in database], dtype=np.int64) for of in (own_of, other_of)]
        return CommonScores(own, queries, database, columns[0], other, columns[1])

    return side(a, column_of[0], b, column_of[1]), side(b, column_of[1], a, column_of[0])


def _lone_pairs(
    sides: tuple[CommonScores, CommonScores], annotation: Annotation, protocol: str, leave_out: bool
) -> tuple[list[str], Annotation, bool]:
    """What is to be said of ranked pairs that only one has scored; the annotation, without its judgements of them if
    they are left out; whether they are."""
    scores = sides[0]
    measures = make_measures(annotation, Present(frozenset(scores.queries), frozenset(scores.database)), protocol)
    leave_out |= not all(measure.counts_unscored for measure in measures)
    column_of = {video_id: column for column, video_id in enumerate(scores.database)}
    counts: dict[str, dict[str, int]] = {"a": {}, "b": {}}
    labels = dict(annotation.labels)
    for query, (own_C, other_C) in zip(scores.queries, scores.lone(scores.queries), strict=True):
        if not (own_C.any() or other_C.any()):
            continue
        ranked_C = _ranked(measures, query, column_of)
        for name, scored_C in (("a", own_C), ("b", other_C)):
            if count := int(np.count_nonzero(scored_C & ranked_C)):
                counts[name][query] = count
        lone_C = (own_C | other_C) & ranked_C
        labels[query] = {
            label: tuple(video_id for video_id in ids if video_id not in column_of or not lone_C[column_of[video_id]])
            for label, ids in annotation.labels.get(query, {}).items()
        }
    notes = []
    for name, other in (("a", "b"), ("b", "a")):
        if by_query := counts[name]:
            fate = (
                "and are left out of both"
                if leave_out
                else f"and count for {other} as the protocol says: a positive is never found, no other is ranked "
                "(--unscored left-out takes them out of both)"
            )
            named = some_of([shown(query) for query in by_query])
            notes.append(f"{sum(by_query.values()):,} pairs have a score in {name} only {fate}; of queries {named}")
    return notes, replace(annotation, labels=labels) if leave_out else annotation, leave_out


def _ranked(measures: Sequence[Measure], query: str, column_of: Mapping[str, int]) -> NDArray[np.bool_]:
    """The videos that some measure ranks for a query."""
    every = np.ones(len(column_of), dtype=np.bool_)
    found = {(judged.candidates, judged.removed): judged for judged in (measure.judge(query) for measure in measures)}
    return np.logical_or.reduce([wanted(judged, every, column_of) for judged in found.values()])


@dataclass
class _Paired:
    """Differences of two outcomes of the same queries, with intervals by the same resamples; ``weights_NQ`` as of
    `draw_weights`. What has no value is said in ``notes``."""

    annotation: Annotation
    queries: Sequence[str]
    weights_NQ: Floats
    level: float
    notes: list[str]

    def differences(self, a: Outcome, b: Outcome) -> list[Difference]:
        """One for each figure that both have."""
        aps = [outcome.as_json()["queries"] for outcome in (a, b)]
        groups = self.annotation.groups
        found: list[Difference | None] = []
        for name, figure in a.figures.items():
            other = b.figures[name]
            if isinstance(figure, dict) and isinstance(other, dict):  # events: of the first measure over queries
                ours, theirs = (each[next(iter(each))] for each in aps)
                for group, value in figure.items():
                    members = [query for query in self.queries if groups[query] == group]
                    found.append(self._mean(f"{name}: {group}", value, other[group], ours, theirs, members))
            elif name in aps[0]:
                found.append(self._mean(name, figure, other, aps[0][name], aps[1][name], self.queries))
            else:
                found.append(self._pooled(name, figure, other, b.resampled[name] - a.resampled[name]))
        return [difference for difference in found if difference is not None]

    def _mean(
        self,
        name: str,
        a: object,
        b: object,
        ours: Mapping[str, float | None],
        theirs: Mapping[str, float | None],
        queries: Sequence[str],
    ) -> Difference | None:
        # positives are the same in both, so a query has a value in both or in neither
        valued = [query for query in queries if ours[query] is not None]
        if len(valued) < len(queries):
            without = [shown(query) for query in queries if ours[query] is None]
            self.notes.append(f"{len(without)} queries of {name} have no positive in both: {some_of(without)}")
        if not isinstance(a, float) or not isinstance(b, float):
            return None
        apart_Q = np.array([(theirs[query] or 0.0) - (ours[query] or 0.0) for query in valued])
        place_of = {query: place for place, query in enumerate(self.queries)}
        weights_NQ = self.weights_NQ[1:, [place_of[query] for query in valued]]
        with np.errstate(invalid="ignore"):
            drawn_N = (weights_NQ @ apart_Q) / weights_NQ.sum(axis=1)
        low, high = interval(b - a, drawn_N, self.level, len(valued))
        return Difference(name, a, b, b - a, low, high, len(valued), *wins_and_losses(apart_Q))

    def _pooled(self, name: str, a: object, b: object, drawn_N: Floats) -> Difference | None:
        if not isinstance(a, float) or not isinstance(b, float):
            return None
        low, high = interval(b - a, drawn_N, self.level, len(self.queries))
        return Difference(name, a, b, b - a, low, high, len(self.queries))
