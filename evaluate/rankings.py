"""Average precision of methods on tasks: the figures of the results, per query and together, with their intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..core.errors import ReelkinError
from ..core.metrics import average_precision, mean_with_interval, micro_average_precision
from .ground_truth import Task
from .published.averages import LEVELS, interpolated_precision
from .published.measures import Average
from .published.ranking import Ranked, positive_groups

SCORE_DECIMALS = 6
"""Scores closer than this many decimals are ties: float32 sums depend on the block they were computed in, and identical
videos must tie on every machine."""
COLLAPSED_SPREAD = 0.01
"""A trained method whose scores (1st to 99th percentile) lie closer than this has very likely collapsed."""
MAX_POOLED_PAIRS = 30_000_000
"""Pairs kept for the pooled precision (240 MB); above, it is not computed."""


@dataclass(frozen=True)
class Method:
    """A way of scoring videos against videos.

    Attributes:
        name: as given on the command line and in the results ("tca-video").
        description: one sentence.
        scores: (query ids, database ids) -> float [Q, V], larger is more similar.
        trivial: a solution that anyone has without training; shown beside for comparison.
        block: queries scored at a time.
    """

    name: str
    description: str
    scores: Callable[[Sequence[str], Sequence[str]], NDArray[np.floating]]
    trivial: bool = False
    block: int = 64


@dataclass(frozen=True)
class Match:
    """One place of a ranking."""

    video_id: str
    score: float
    relevant: bool


@dataclass(frozen=True)
class QueryResult:
    """One query under one method: its average precision (None: it has no positive) and its best matches."""

    query: str
    ap: float | None
    num_positives: int
    best: Sequence[Match]


@dataclass(frozen=True)
class MethodResult:
    """One method on one task.

    Attributes:
        method: the method.
        queries: a result per query, in the task's order.
        mean, low, high: mean average precision with its interval; None when no query has a positive.
        micro_ap: average precision of all pairs pooled; None when they are too many.
        spread: the 1st and 99th percentile of all scores, None when they are too many.
        seconds: taken to score and rank.
        precision: mean over the queries of the highest precision at a recall of at least each of
            `published.averages.LEVELS`; empty when no query has a positive.
    """

    method: Method
    queries: Sequence[QueryResult]
    mean: float | None
    low: float | None
    high: float | None
    micro_ap: float | None
    spread: tuple[float, float] | None
    seconds: float
    precision: Sequence[float] = ()

    @property
    def collapsed(self) -> bool:
        """Whether the scores hardly differ: the mark of embeddings that have collapsed to one point."""
        return (
            not self.method.trivial and self.spread is not None and self.spread[1] - self.spread[0] < COLLAPSED_SPREAD
        )

    @property
    def aps(self) -> dict[str, float]:
        """Average precision of the queries that have one."""
        return {result.query: result.ap for result in self.queries if result.ap is not None}


@dataclass(frozen=True)
class Gain:
    """Mean difference of average precision, same queries, with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class TaskResult:
    """All methods on one task."""

    task: Task
    methods: Sequence[MethodResult] = field(default_factory=list)

    def by_name(self, name: str) -> MethodResult:
        """The result of one method. Raises KeyError."""
        return {result.method.name: result for result in self.methods}[name]


def evaluate_task(task: Task, methods: Sequence[Method], *, seed: int = 0, keep_best: int = 10) -> TaskResult:
    """Score every query of a task under every method.

    Raises:
        ReelkinError: a method's scores are not finite, with the query's name.
    """
    return TaskResult(task, [evaluate_method(task, method, seed=seed, keep_best=keep_best) for method in methods])


def evaluate_method(task: Task, method: Method, *, seed: int = 0, keep_best: int = 10) -> MethodResult:
    """As `evaluate_task`, for one method."""
    column = {video_id: index for index, video_id in enumerate(task.database)}
    results: list[QueryResult] = []
    pooled: list[tuple[NDArray[np.float32], NDArray[np.bool_]]] = []
    pool = len(task.queries) * len(task.database) <= MAX_POOLED_PAIRS
    precision_L = np.zeros(len(LEVELS))
    started = time.monotonic()
    for begin in range(0, len(task.queries), method.block):
        queries = task.queries[begin : begin + method.block]
        for query, row in zip(queries, np.asarray(method.scores(queries, task.database)), strict=True):
            keep = np.ones(len(task.database), dtype=np.bool_)
            for video_id in task.ignored.get(query, frozenset()) | {query}:
                if video_id in column:
                    keep[column[video_id]] = False
            relevant = np.zeros(len(task.database), dtype=np.bool_)
            relevant[[column[video_id] for video_id in task.relevant[query]]] = True
            rounded: NDArray[np.float64] = np.asarray(row, dtype=np.float64).round(SCORE_DECIMALS)
            results.append(_query_result(task, query, rounded, relevant, keep, keep_best))
            precision_L += _precision_at_levels(rounded, relevant, keep, results[-1].num_positives)
            if pool:
                pooled.append((rounded[keep].astype(np.float32), relevant[keep]))
    seconds = time.monotonic() - started
    mean, low, high = summary(task, {r.query: r.ap for r in results if r.ap is not None}, seed)
    micro = spread = None
    if pool and results:
        total = sum(result.num_positives for result in results)
        scores, flags = (np.concatenate(parts) for parts in zip(*pooled, strict=True))
        micro = micro_average_precision(scores, flags, num_positives=total)
        lowest, highest = np.quantile(scores, [0.01, 0.99])
        spread = (float(lowest), float(highest))
    num_curves = sum(result.ap is not None for result in results)
    precision = (precision_L / num_curves).tolist() if num_curves else ()
    return MethodResult(method, results, mean, low, high, micro, spread, seconds, precision)


def _precision_at_levels(
    scores: NDArray[np.float64], relevant: NDArray[np.bool_], keep: NDArray[np.bool_], total: int
) -> NDArray[np.float64]:
    """Highest precision of one query at a recall of at least each of `LEVELS`; zeros without positives."""
    found = np.flatnonzero(relevant & keep)
    if not total or not len(found):
        return np.zeros(len(LEVELS))
    groups = positive_groups(Ranked(scores, keep), found, Average.EXPECTED)
    return interpolated_precision(groups.before_G, groups.size_G, groups.hits_G, total, LEVELS)


def _query_result(
    task: Task,
    query: str,
    scores: NDArray[np.float64],
    relevant: NDArray[np.bool_],
    keep: NDArray[np.bool_],
    keep_best: int,
) -> QueryResult:
    """Average precision and best matches of one query; ``keep`` [V] is false for the query itself and the ignored."""
    num_positives = len(task.relevant[query]) + task.missing_positives.get(query, 0)
    try:
        ap = average_precision(scores[keep], relevant[keep], num_positives=num_positives, query=query)
    except ValueError as error:
        raise ReelkinError(str(error)) from error
    order = np.argsort(np.where(keep, -scores, np.inf), kind="stable")[: min(keep_best, int(keep.sum()))]
    best = [Match(task.database[i], float(scores[i]), bool(relevant[i])) for i in order]
    return QueryResult(query, ap, num_positives, best)


def summary(task: Task, values: dict[str, float], seed: int) -> tuple[float | None, float | None, float | None]:
    """Mean and interval of per-query values; groups of queries are drawn whole where the task has groups."""
    if not values:
        return None, None, None
    groups = [task.groups[query] for query in values] if task.groups else None
    return mean_with_interval(list(values.values()), seed, groups=groups)


def gain(task: Task, method: MethodResult, baseline: MethodResult, *, seed: int = 0) -> Gain | None:
    """How much better a method is than another on the same queries: far sharper than comparing two intervals."""
    ours, theirs = method.aps, baseline.aps
    mean, low, high = summary(task, {query: ours[query] - theirs[query] for query in ours}, seed)
    return None if mean is None or low is None or high is None else Gain(mean, low, high)
