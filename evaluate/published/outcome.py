"""What an evaluation of a published benchmark found, and its JSON and text forms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...search.text import shown
from .annotation import NAMED, Problem, Source
from .averages import Floats

FORMAT, VERSION = "reelkin-benchmark", 1

Figure = float | None | dict[str, float | None]
Interval = tuple[float, float] | None | dict[str, tuple[float, float] | None]


@dataclass(frozen=True)
class QueryRow:
    """One query under one measure.

    Attributes:
        measure: its name.
        query: its id.
        ap: average precision; None if it has no positive.
        num_positives: what the average precision is divided by.
        best_wrong: the highest ranked video that is no positive, or None if there is none.
        best_wrong_score: its score.
        best_wrong_place: its place in the ranking, from 1; of tied videos the first.
        best_missed: the highest ranked positive that is not above the best wrong video, or None if there is none.
        best_missed_score, best_missed_place: as of the best wrong video.
        missing: positives that the annotation names and that cannot be found: absent from the scores, or without a
            score for this query.
    """

    measure: str
    query: str
    ap: float | None
    num_positives: int
    best_wrong: str | None
    best_wrong_score: float | None
    missing: tuple[str, ...]
    best_wrong_place: int | None = None
    best_missed: str | None = None
    best_missed_score: float | None = None
    best_missed_place: int | None = None


@dataclass(frozen=True)
class Curve:
    """Precision against recall. Of a pooled measure: its thresholds, with their scores. Else: the mean over queries of
    the highest precision at a recall of at least each level; no scores."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]
    score: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """How many of those that the annotation names have scores."""

    found: int
    of: int

    def __str__(self) -> str:
        return f"{self.found:,} of {self.of:,}"


@dataclass(frozen=True)
class Outcome:
    """The figures of one system on one benchmark.

    Attributes:
        dataset, protocol: what was evaluated and how; ``description`` says it in words.
        version: of the annotation, where there are several.
        annotation_sha256: of what the annotation says; see `annotation.Annotation.sha256`.
        sources: the files that it was read from.
        queries, database: how much of the annotation has scores.
        groups: of each group of queries (EVVE: event) how many have scores; empty without groups.
        figures: by the published names; None without any query that has positives. "events" holds a dict.
        intervals: 95 % bootstrap intervals over queries by the same names; empty if none were asked for.
        rows: a row for each measure that averages over queries, and query.
        curves: by measure.
        problems: all that was found wrong or missing, in the annotation and in the scores.
        facts: what made the scores (model, features, metric), plain values.
        resampled: of each pooled measure the figure of every resample of the queries (`pooling.draw_weights`), [N]; NaN
            where no positive was drawn. Empty if no intervals were asked for.
    """

    dataset: str
    protocol: str
    description: str
    version: str
    annotation_sha256: str
    sources: Sequence[Source]
    queries: Found
    database: Found
    figures: Mapping[str, Figure]
    intervals: Mapping[str, Interval]
    rows: Sequence[QueryRow]
    curves: Mapping[str, Curve]
    problems: Sequence[Problem]
    facts: Mapping[str, Any] = field(default_factory=dict)
    groups: Mapping[str, Found] = field(default_factory=dict)
    resampled: Mapping[str, Floats] = field(default_factory=dict)

    @property
    def coverage(self) -> str:
        """One line that goes with every figure."""
        return f"{self.queries} queries, {self.database} videos"

    def as_json(self) -> dict[str, Any]:
        """The content of results.json; for the per-query values see "queries", for the rest of a row "query_table"."""
        per_query: dict[str, dict[str, float | None]] = {}
        for row in self.rows:
            per_query.setdefault(row.measure, {})[row.query] = row.ap
        events = {name: [found.found, found.of] for name, found in self.groups.items()}
        return {
            "format": FORMAT,
            "version": VERSION,
            "dataset": self.dataset,
            "protocol": self.protocol,
            "description": self.description,
            "annotation": self.version,
            "annotation_sha256": self.annotation_sha256,
            "annotation_files": [{"name": source.name, "sha256": source.sha256} for source in self.sources],
            "coverage": {
                "queries": [self.queries.found, self.queries.of],
                "database": [self.database.found, self.database.of],
                **({"events": events} if events else {}),
            },
            "scores": dict(self.facts),
            "metrics": dict(self.figures),
            "intervals": {name: _listed(interval) for name, interval in self.intervals.items()},
            "queries": per_query,
            "query_table": [_row(row) for row in self.rows],
            "curves": {
                name: {"recall": list(curve.recall), "precision": list(curve.precision), "score": list(curve.score)}
                for name, curve in self.curves.items()
            },
            "problems": [problem.as_json() for problem in self.problems],
        }

    def text(self, others: Mapping[str, Outcome] | None = None) -> str:
        """The figures for a terminal, and those of ``others`` by name; each line says how much is there."""
        version = f", annotation {self.version}" if self.version else ""
        lines = [
            f"{self.dataset}{version}, protocol {self.protocol}: {self.coverage} have scores",
            *self.figure_lines(),
        ]
        for name, other in (others or {}).items():
            lines += [f"{name}: [{self.coverage}]", *other.figure_lines()]
        lines += [f"note: {problem.text} [{self.coverage}]" for problem in self.problems]
        return "\n".join(lines)

    def figure_lines(self) -> list[str]:
        """A line for each figure; those of events stand under their names."""
        lines = []
        for name, figure in self.figures.items():
            interval = self.intervals.get(name)
            if isinstance(figure, dict):
                of_group = interval if isinstance(interval, dict) else {}
                lines += [
                    self._line(group, value, of_group.get(group), self.groups.get(group))
                    for group, value in figure.items()
                ]
            else:
                lines.append(self._line(name, figure, interval if isinstance(interval, tuple) else None))
        return lines

    def _line(
        self, name: str, figure: float | None, interval: tuple[float, float] | None, queries: Found | None = None
    ) -> str:
        """``queries``: those that the figure is of, if not all."""
        queries = queries or self.queries
        value = f"{figure:.4f}" if figure is not None else no_figure(queries)
        between = f" ({interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
        return f"  {shown(name):<36} {value}{between}  [{queries} queries, {self.database} videos]"


def no_figure(queries: Found) -> str:
    """Why there is no figure over some queries."""
    return "no query has a positive" if queries.found else "no query has scores"


def _listed(interval: Interval) -> Any:
    if isinstance(interval, dict):
        return {name: _listed(value) for name, value in interval.items()}
    return None if interval is None else list(interval)


def _row(row: QueryRow) -> dict[str, Any]:
    return {
        "measure": row.measure,
        "query": row.query,
        "ap": row.ap,
        "num_positives": row.num_positives,
        "best_wrong": row.best_wrong,
        "best_wrong_score": _finite(row.best_wrong_score),
        "best_wrong_place": row.best_wrong_place,
        "best_missed": row.best_missed,
        "best_missed_score": _finite(row.best_missed_score),
        "best_missed_place": row.best_missed_place,
        "num_missing": len(row.missing),
        "missing": list(row.missing[:NAMED]),
    }


def _finite(score: float | None) -> float | None:
    return score if score is not None and math.isfinite(score) else None
