"""From an annotation and scores to figures: every row of scores is looked at a few times and never kept.

The first walk over the rows gives what stands for each query, further ones the counts that pooled measures need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...core.errors import ReelkinError
from ...core.metrics import mean_with_interval
from .annotation import Annotation, Problem, ProblemLog, match_ids
from .averages import LEVELS, Floats, interpolated_precision
from .measures import Judged, Measure, Present
from .outcome import Curve, Figure, Found, Interval, Outcome, QueryRow
from .pooling import Pool, draw_weights
from .protocols import description, make_measures
from .ranking import Groups, Ranked, average_precision, columns_of, positive_groups

LOST = "queries of the annotation without scores"
UNSCORED = "queries with pairs that have no score"
ROUGH = "intervals are rough, drawn over few queries"
FEW_QUERIES = 10
"""Over fewer, percentile intervals that say 95 % hold the true value in some 80 % of cases (simulated, 6 queries)."""
CURVE_POINTS = 500
"""At most so many points of a pooled curve are kept."""


class Scores(Protocol):
    """Similarities of queries and videos; larger is more similar.

    Their ``problems`` and ``facts``, if they have any, go into the outcome. ``listed(query)``, if they have it, is the
    place [V] at which a query's row lists each column, which orders ties under legacy; None: the order of the columns.
    """

    @property
    def queries(self) -> Sequence[str]:
        """Ids that have a row."""

    @property
    def database(self) -> Sequence[str]:
        """Ids of the columns; a query may be among them."""

    def rows(self, queries: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        """A row [V] for each of ``queries`` in that order; NaN where a pair has no score. Called several times."""


@dataclass
class _State:
    """What is collected of one measure."""

    measure: Measure
    pool: Pool | None
    aps: dict[str, float | None] = field(default_factory=dict)
    precision_L: Floats = field(default_factory=lambda: np.zeros(len(LEVELS)))
    num_curves: int = 0


class _Walk:
    """One query's row and what it takes to rank it, shared by the measures that rank the same videos."""

    def __init__(
        self,
        row_V: NDArray[np.floating],
        known_V: NDArray[np.bool_],
        columns: dict[str, int],
        listed_V: NDArray[np.integer] | None,
    ) -> None:
        self.row_V = row_V
        self.known_V = known_V
        self.columns = columns
        self.listed_V = listed_V
        self._ranked: dict[tuple[frozenset[str] | None, frozenset[str]], Ranked] = {}

    def ranked(self, judged: Judged) -> Ranked:
        """The ranking of the videos that ``judged`` wants ranked."""
        key = (judged.candidates, judged.removed)
        if key not in self._ranked:
            mask_V = wanted(judged, self.known_V, self.columns)
            self._ranked[key] = Ranked(self.row_V, mask_V, self.listed_V)
        return self._ranked[key]

    def positives(self, judged: Judged, ranked: Ranked) -> NDArray[np.int64]:
        """Columns of the positives that are ranked."""
        columns_P = columns_of(judged.positives, self.columns)
        return columns_P[ranked.mask_V[columns_P]]

    @property
    def num_unscored(self) -> int:
        """Pairs without a score, of the measure that ranks the most."""
        return max((ranked.num_unscored for ranked in self._ranked.values()), default=0)


def evaluate_scores(
    annotation: Annotation, scores: Scores, *, protocol: str = "corrected", num_resamples: int = 0, seed: int = 0
) -> Outcome:
    """All figures of a benchmark.

    Args:
        annotation: the ground truth.
        scores: similarities; ids in any spelling that the annotation understands. Videos may be missing.
        protocol: "corrected" or "legacy".
        num_resamples: of the bootstrap over queries; 0: no intervals.
        seed: of the bootstrap.

    Raises:
        UsageError: the protocol is unknown.
        ReelkinError: no query or no video of the annotation has scores, or a row has another length than the database.
    """
    return _Evaluation(annotation, scores, protocol, num_resamples, seed).run()


class _Evaluation:
    def __init__(self, annotation: Annotation, scores: Scores, protocol: str, num_resamples: int, seed: int) -> None:
        self.annotation, self.scores, self.protocol = annotation, scores, protocol
        self.num_resamples, self.seed = num_resamples, seed
        self.log = ProblemLog()
        columns = match_ids(annotation, scores.database, self.log, "video")
        self.row_of = match_ids(annotation, scores.queries, self.log, "query")
        open_database = annotation.database is None
        database = tuple(dict.fromkeys((*columns, *annotation.named))) if open_database else annotation.database or ()
        self.columns = {video_id: columns[video_id] for video_id in database if video_id in columns}
        self.queries = [query for query in annotation.queries if query in self.row_of]
        self._check_found(columns)
        self.num_database = len(database)
        known = set(database).union(annotation.queries)
        self.log.add_all("videos of the scores that the annotation does not know; not ranked", _others(columns, known))
        strangers = _others(self.row_of, set(annotation.queries))
        self.log.add_all("queries of the scores that the annotation does not know; left out", strangers)
        lost = (query for query in annotation.queries if query not in self.row_of)
        self.log.add_all(LOST, lost)
        absent = (video_id for video_id in database if video_id not in self.columns)
        self.log.add_all("videos of the annotation without scores", absent)
        self.known_V = np.zeros(len(scores.database), dtype=np.bool_)
        self.known_V[list(self.columns.values())] = True
        present = Present(frozenset(self.queries), frozenset(self.columns))
        weights_NQ = draw_weights(len(self.queries), num_resamples, seed)
        self.states = [
            _State(measure, Pool(measure.average, weights_NQ) if measure.pooled else None)
            for measure in make_measures(annotation, present, protocol)
        ]
        self.rows: list[QueryRow] = []

    def _check_found(self, columns: dict[str, int]) -> None:
        for what, found, wanted, given in (
            ("queries", self.queries, self.annotation.queries, self.row_of),
            ("videos", self.columns, self.annotation.database or (), columns),
        ):
            if not found:
                raise ReelkinError(
                    f"none of the {len(wanted):,} {what} of {self.annotation.dataset} has scores (it names "
                    f"{_first(wanted)}; the scores have {_first(given)}); check how ids are spelled"
                )

    def run(self) -> Outcome:
        """Walk over all queries and put the figures together."""
        counts = any(state.measure.counts_unscored for state in self.states)
        unscored = f"{UNSCORED}; {'a positive among them counts as never found' if counts else 'these are left out'}"
        for place, query, walk in self._walks():
            for state in self.states:
                self._first_look(state, place, query, walk)
            if walk.num_unscored:
                self.log.add(unscored, f"{query}: {walk.num_unscored:,} pairs")
        pools = [state.pool for state in self.states if state.pool is not None]
        for number in range(max((pool.num_walks for pool in pools), default=0)):
            for place, query, walk in self._walks():
                for state in self.states:
                    if state.pool is not None and number < state.pool.num_walks:
                        judged = state.measure.judge(query)
                        ranked = walk.ranked(judged)
                        state.pool.count(place, ranked, walk.positives(judged, ranked))
            for pool in pools:
                if number < pool.num_walks:
                    pool.finish()
        for state in self.states:
            without = [query for query, ap in state.aps.items() if ap is None]
            self.log.add_all(f"queries without positives for {state.measure.name}; not averaged", without)
        return self._outcome()

    def _walks(self) -> Iterator[tuple[int, str, _Walk]]:
        given = [self.scores.queries[self.row_of[query]] for query in self.queries]
        size = len(self.scores.database)
        listed = getattr(self.scores, "listed", None) if self.protocol == "legacy" else None
        for place, (query, row) in enumerate(zip(self.queries, self.scores.rows(given), strict=True)):
            row_V = np.asarray(row)
            if row_V.shape != (size,) or not np.issubdtype(row_V.dtype, np.floating):
                raise ReelkinError(
                    f"the scores of query {query!r} are {row_V.dtype} of shape {row_V.shape}; expected real numbers of "
                    f"shape ({size},)"
                )
            listed_V = None if listed is None else listed(given[place])
            yield place, query, _Walk(row_V, self.known_V, self.columns, listed_V)

    def _first_look(self, state: _State, place: int, query: str, walk: _Walk) -> None:
        measure = state.measure
        judged = measure.judge(query)
        ranked = walk.ranked(judged)
        positives_P = walk.positives(judged, ranked)
        total = judged.total if measure.counts_unscored else len(positives_P)
        if state.pool is not None:
            state.pool.collect(place, ranked, positives_P, total)
            return
        groups = positive_groups(ranked, positives_P, measure.average)
        ap = average_precision(groups, total, measure.average) if total else measure.if_empty
        state.aps[query] = ap
        if total:
            state.precision_L += interpolated_precision(groups.before_G, groups.size_G, groups.hits_G, total, LEVELS)
            state.num_curves += 1
        self.rows.append(self._row(measure.name, query, ap, total, judged, ranked, positives_P))

    def _row(
        self,
        name: str,
        query: str,
        ap: float | None,
        total: int,
        judged: Judged,
        ranked: Ranked,
        positives_P: NDArray[np.int64],
    ) -> QueryRow:
        wrong = ranked.best_wrong(positives_P)
        unscored: list[str] = []
        if len(positives_P) < len(judged.positives):
            scored = set(positives_P.tolist())
            unscored = sorted(v for v in judged.positives if self.columns[v] not in scored)
        missed = None if wrong is None else ranked.best_of(positives_P, wrong[1])
        return QueryRow(
            measure=name,
            query=query,
            ap=ap,
            num_positives=total,
            best_wrong=self._id_of(wrong),
            best_wrong_score=None if wrong is None else wrong[1],
            best_wrong_place=None if wrong is None else ranked.place_of(wrong[1]),
            best_missed=self._id_of(missed),
            best_missed_score=None if missed is None else missed[1],
            best_missed_place=None if missed is None else ranked.place_of(missed[1]),
            missing=(*judged.missing, *unscored),
        )

    def _id_of(self, found: tuple[int, float] | None) -> str | None:
        return None if found is None else self.annotation.normal_id(self.scores.database[found[0]])

    def _outcome(self) -> Outcome:
        figures: dict[str, Figure] = {}
        intervals: dict[str, Interval] = {}
        curves: dict[str, Curve] = {}
        for state in self.states:
            name = state.measure.name
            if state.pool is not None:
                figures[name], intervals[name] = _pooled(state.pool)
                curves[name] = _pooled_curve(state.pool)
                continue
            figures[name], intervals[name] = self._mean(list(state.aps.values()))
            if state.num_curves:
                precision = state.precision_L / state.num_curves
                curves[name] = Curve(tuple(LEVELS.tolist()), tuple(precision.tolist()))
        for state in self.states:  # after the figures over all queries
            if state.measure.groups:
                by_group = self._by_group(state)
                figures["events"] = {group: figure for group, (figure, _) in by_group.items()}
                intervals["events"] = {group: interval for group, (_, interval) in by_group.items()}
        rough = self.num_resamples and len(self.queries) < FEW_QUERIES
        problems = [*self.log.problems, *([Problem(ROUGH, len(self.queries), ())] if rough else [])]
        return Outcome(
            dataset=self.annotation.dataset,
            protocol=self.protocol,
            description=description(self.annotation.dataset, self.protocol),
            version=self.annotation.version,
            annotation_sha256=self.annotation.sha256,
            sources=self.annotation.sources,
            queries=Found(len(self.queries), len(self.annotation.queries)),
            database=Found(len(self.columns), self.num_database),
            figures=figures,
            intervals=intervals if self.num_resamples else {},
            rows=self.rows,
            curves=curves,
            problems=(*self.annotation.problems, *getattr(self.scores, "problems", ()), *problems),
            facts=getattr(self.scores, "facts", {}),
            groups=self._groups_found() if "events" in figures else {},
            resampled={
                state.measure.name: state.pool.values_N[1:]
                for state in self.states
                if state.pool is not None and self.num_resamples
            },
        )

    def _groups_found(self) -> dict[str, Found]:
        """Of each group of queries how many have scores."""
        of = Counter(self.annotation.groups[query] for query in self.annotation.queries)
        found = Counter(self.annotation.groups[query] for query in self.queries)
        return {group: Found(found[group], of[group]) for group in sorted(of)}

    def _by_group(self, state: _State) -> dict[str, tuple[float | None, tuple[float, float] | None]]:
        aps: dict[str, list[float | None]] = {group: [] for group in sorted(set(self.annotation.groups.values()))}
        for query, ap in state.aps.items():
            aps[state.measure.groups[query]].append(ap)
        return {group: self._mean(values) for group, values in aps.items()}

    def _mean(self, aps: Sequence[float | None]) -> tuple[float | None, tuple[float, float] | None]:
        values = [ap for ap in aps if ap is not None]
        if not values:
            return None, None
        mean, low, high = mean_with_interval(values, self.seed, num_resamples=max(self.num_resamples, 1))
        return mean, None if len(values) < 2 else (low, high)  # one value is drawn again and again


def wanted(judged: Judged, known_V: NDArray[np.bool_], columns: Mapping[str, int]) -> NDArray[np.bool_]:
    """Which columns are to be ranked: of those of the database (``known_V``) what ``judged`` says."""
    mask_V = known_V.copy()
    if judged.candidates is not None:
        mask_V[:] = False
        mask_V[columns_of(judged.candidates, columns)] = True
    mask_V[columns_of(judged.removed, columns)] = False
    return mask_V


def _pooled(pool: Pool) -> tuple[float | None, tuple[float, float] | None]:
    values_N = pool.values_N
    if np.isnan(values_N[0]):
        return None, None
    figure = float(values_N[0])
    drawn = values_N[1:][~np.isnan(values_N[1:])]
    if not len(drawn) or len(pool.totals_Q) < 2:
        return figure, None
    low, high = np.quantile(drawn, [0.025, 0.975])
    return figure, (min(float(low), figure), max(float(high), figure))


def _pooled_curve(pool: Pool) -> Curve:
    groups, scores_G = pool.curve
    total = float(pool.totals_Q.sum())
    if not len(scores_G) or not total:
        return Curve((), ())
    recall, precision = _recall_precision(groups, total)
    kept = np.unique(np.linspace(0, len(scores_G) - 1, min(CURVE_POINTS, len(scores_G))).round().astype(np.int64))
    return Curve(tuple(recall[kept].tolist()), tuple(precision[kept].tolist()), tuple(scores_G[kept].tolist()))


def _recall_precision(groups: Groups, total: float) -> tuple[Floats, Floats]:
    found_G = np.cumsum(groups.hits_G)
    return found_G / total, found_G / (groups.before_G + groups.size_G)


def _others(ids: dict[str, int], known: set[str]) -> Iterator[str]:
    return (video_id for video_id in ids if video_id not in known)


def _first(ids: Sequence[str] | dict[str, int]) -> str:
    return ", ".join(repr(video_id) for video_id, _ in zip(ids, range(3), strict=False)) or "none"
