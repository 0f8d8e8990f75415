"""Measure: one named figure of a benchmark, said so that scoring needs to know nothing of any benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Average(StrEnum):
    """Kinds of average precision; they differ in what ties do, TRAPEZOID in its value too."""

    EXPECTED = "expected"
    """Mean over all orders of tied videos."""
    FIRST_FIRST = "first-first"
    """Tied videos stay in the order of the scores: Python's stable sort, falling."""
    LAST_FIRST = "last-first"
    """Tied videos in the reverse order of the scores: a rising stable sort, reversed."""
    TRAPEZOID = "trapezoid"
    """EVVE's published area under precision and recall, by trapezoids; ties as FIRST_FIRST."""
    THRESHOLDS = "thresholds"
    """scikit-learn's average_precision_score: a positive counts with the precision after its tied videos."""


@dataclass(frozen=True)
class Present:
    """What of a benchmark has scores: queries with a row, and videos of the database with a column."""

    queries: frozenset[str]
    database: frozenset[str]


@dataclass(frozen=True)
class Judged:
    """What is right for one query under one measure.

    Attributes:
        positives: ids that can be found: in the database that is there.
        total: positives that average precision is divided by; more than `positives` where a protocol counts what cannot
            be found.
        missing: positives that the annotation names and the database that is there lacks.
        candidates: the ids that are ranked; None: the whole database.
        removed: ids taken out of the ranking.
    """

    positives: frozenset[str]
    total: int
    missing: tuple[str, ...] = ()
    candidates: frozenset[str] | None = None
    removed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Measure:
    """One figure.

    Attributes:
        name: as published ("DSVR", "cc_web*", "uAP").
        judge: what is right for a query.
        average: the kind of average precision.
        pooled: all pairs of all queries in one ranking (micro average precision), instead of the mean over queries.
        if_empty: average precision of a query without positives; None: it has none, and is reported and not averaged.
        counts_unscored: whether a positive without a score counts as never found; else it is left out.
        groups: if given, the mean over the queries of each group stands in the figure "events" too.
    """

    name: str
    judge: Callable[[str], Judged]
    average: Average = Average.EXPECTED
    pooled: bool = False
    if_empty: float | None = None
    counts_unscored: bool = True
    groups: Mapping[str, str] = field(default_factory=dict)
