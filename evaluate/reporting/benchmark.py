"""The report of a published benchmark: figures, precision and recall, failures and every query on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.files import publish_text
from ...core.metrics import mean_with_interval
from ..published.outcome import Figure, Interval, Outcome, QueryRow, no_figure
from ..published.publishing import Evaluation
from . import charts
from .matrices import Matrices, matrix_picture
from .page import MAX_QUERY_ROWS, Strips, flat, pictures, render_page

BASELINE = "mean-pool"
EVENTS = "events"


@dataclass(frozen=True)
class Cell:
    """A figure of one system, with its interval if there is one."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One figure of all systems, the evaluated one first; ``count``: what it is of, in words."""

    name: str
    cells: Sequence[Cell]
    count: str


def write_report(evaluation: Evaluation, path: Path, **options: Any) -> None:
    """Write the page; options as of `render`."""
    publish_text(path, render(evaluation, **options))


def render(
    evaluation: Evaluation,
    *,
    title: str = "",
    show: str = "",
    num_examples: int = 6,
    strips: Strips | None = None,
    matrices: Matrices | None = None,
    plots: Sequence[str] = (),
    results_name: str = "results.json",
    queries_name: str = "queries.csv",
) -> str:
    """The page as a string.

    Args:
        evaluation: what to show.
        title: heading; default the benchmark's name.
        show: measure whose failures are shown; default the first that averages over queries.
        num_examples: failures shown.
        strips: frames of a video; without it failures are ids and scores only.
        matrices: similarities of two videos' frames; without it none are shown.
        plots: names of files beside the page that hold the curves.
        results_name, queries_name: of the files beside the page.
    """
    outcome, systems = evaluation.system.outcome, (evaluation.system, *evaluation.baselines)
    measure = show or next((row.measure for row in outcome.rows), "")
    figures = figure_rows([system.outcome for system in systems])
    curves = curve_panels(evaluation)
    rows = _query_rows(evaluation, measure)
    failures = [_failure(row, strips, matrices) for row in worst(outcome, measure, num_examples)]
    return render_page(
        "benchmark.html.j2",
        title=title or f"{outcome.dataset}: {evaluation.system.name}",
        system=evaluation.system,
        outcome=outcome,
        no_figure=no_figure(outcome.queries),
        partial=outcome.queries.found < outcome.queries.of or outcome.database.found < outcome.database.of,
        figures=figures,
        names=[system.name for system in systems],
        descriptions=[system.description for system in systems],
        with_intervals=bool(outcome.intervals),
        chart=charts.dots(figure_panels(evaluation)),
        curve_chart=charts.curves(curves) if curves else None,
        plots=plots,
        events=_events(evaluation),
        gains=_gains(evaluation, [figure.name for figure in figures]),
        measure=measure,
        failures=failures,
        with_pictures=strips is not None,
        with_matrices=any(place["matrix"] for failure in failures for place in failure["places"]),
        rows=rows[:MAX_QUERY_ROWS],
        num_rows=len(rows),
        row_measures=list(dict.fromkeys(row.measure for row in outcome.rows)),
        with_groups=bool(evaluation.groups),
        facts=[*flat("scores.", outcome.facts), *flat("", evaluation.config)],
        results_name=results_name,
        queries_name=queries_name,
    )


def _cell(figure: Figure, interval: Interval) -> Cell:
    low, high = interval if isinstance(interval, tuple) else (None, None)
    return Cell(figure if isinstance(figure, (int, float)) else None, low, high)


def figure_rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """The figures of all systems; those of single events are left out."""
    first = outcomes[0]
    counts: dict[str, int] = {}
    for row in first.rows:
        counts[row.measure] = counts.get(row.measure, 0) + (row.ap is not None)
    return [
        Row(
            name,
            [_cell(outcome.figures.get(name), outcome.intervals.get(name)) for outcome in outcomes],
            f"{counts[name]} queries" if name in counts else "all pairs",
        )
        for name, figure in first.figures.items()
        if not isinstance(figure, dict)
    ]


def figure_panels(evaluation: Evaluation) -> list[charts.Panel]:
    """The figures as panels of a chart: one per measure, in it a row per system."""
    systems = (evaluation.system, *evaluation.baselines)
    return [
        charts.Panel(
            row.name,
            [
                charts.Mark(system.name, cell.value, cell.low, cell.high, trivial=place > 0)
                for place, (system, cell) in enumerate(zip(systems, row.cells, strict=True))
            ],
        )
        for row in figure_rows([system.outcome for system in systems])
    ]


def curve_panels(evaluation: Evaluation) -> list[charts.CurvePanel]:
    """Precision against recall: a panel per measure that has a curve, in it a line per system."""
    systems = (evaluation.system, *evaluation.baselines)
    return [
        charts.CurvePanel(
            name,
            [
                charts.Line(system.name, curve.recall, curve.precision, style=place, trivial=place > 0)
                for place, system in enumerate(systems)
                if (curve := system.outcome.curves.get(name)) is not None and curve.recall
            ],
        )
        for name, own in evaluation.system.outcome.curves.items()
        if own.recall
    ]


def _events(evaluation: Evaluation) -> list[dict[str, Any]]:
    """A row per event, where the benchmark has them."""
    outcomes = [system.outcome for system in (evaluation.system, *evaluation.baselines)]
    first = outcomes[0].figures.get(EVENTS)
    if not isinstance(first, dict):
        return []
    return [
        {
            "name": name,
            "queries": outcomes[0].groups[name],
            "cells": [
                _cell(_part(outcome.figures.get(EVENTS), name), _part(outcome.intervals.get(EVENTS), name))
                for outcome in outcomes
            ],
        }
        for name in first
    ]


def _part(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else None


def _gains(evaluation: Evaluation, names: Sequence[str]) -> dict[int, dict[str, float]]:
    """By the figure's place: the mean difference to mean pooling over the same queries; empty without intervals."""
    base = next((system.outcome for system in evaluation.baselines if system.name == BASELINE), None)
    if base is None or not evaluation.system.outcome.intervals:
        return {}
    ours, theirs = (_aps(outcome) for outcome in (evaluation.system.outcome, base))
    found = {}
    for place, name in enumerate(names):
        common = [key for key in ours if key[0] == name and key in theirs]
        if common:
            mean, low, high = mean_with_interval([ours[key] - theirs[key] for key in common], 0)
            found[place] = {"mean": mean, "low": low, "high": high}
    return found


def _aps(outcome: Outcome) -> dict[tuple[str, str], float]:
    return {(row.measure, row.query): row.ap for row in outcome.rows if row.ap is not None}


def worst(outcome: Outcome, measure: str, count: int) -> list[QueryRow]:
    """The queries with the lowest average precision, worst first; those that are ranked perfectly are none.

    Perfectly ranked under legacy is below 1 for some (VCDB), so there only misplaced positives and zeros tell.
    """
    rows = [row for row in outcome.rows if row.measure == measure and row.ap is not None and row.best_wrong is not None]
    below = 1.0 if outcome.protocol == "corrected" else 0.0
    failed = [row for row in rows if row.best_missed is not None or row.ap == 0 or (row.ap or 0.0) < below]
    return sorted(failed, key=lambda row: (row.ap, row.query))[:count]


def _failure(row: QueryRow, strips: Strips | None, matrices: Matrices | None) -> dict[str, Any]:
    wrong = (row.best_wrong, row.best_wrong_place, row.best_wrong_score)
    missed = (row.best_missed, row.best_missed_place, row.best_missed_score)
    places = [
        _place("query", "Query", "the query", (row.query, None, None), strips),
        _place("wrong", "✗ Best wrong answer", "the best wrong answer", wrong, strips),
        _place("right", "✓ Best missed positive", "the best missed positive", missed, strips),
    ]
    if matrices is not None:
        found = [(place, matrices(row.query, place["video_id"])) for place in places[1:] if place["video_id"]]
        held = [(place, matrix) for place, matrix in found if matrix is not None and matrix.size]
        if held:  # both in the same colours
            low = min(float(matrix.min()) for _, matrix in held)
            high = max(float(matrix.max()) for _, matrix in held)
            for place, matrix in held:
                place["matrix"] = matrix_picture(matrix, low, high)
    return {"row": row, "places": places}


def _place(
    kind: str, heading: str, alt: str, found: tuple[str | None, int | None, float | None], strips: Strips | None
) -> dict[str, Any]:
    video_id, rank, score = found
    shown = pictures(strips, video_id) if video_id else []
    return {
        "kind": kind,
        "heading": heading,
        "alt": alt,
        "video_id": video_id,
        "rank": rank,
        "score": score,
        "pictures": shown,
        "matrix": None,
    }


def _query_rows(evaluation: Evaluation, measure: str) -> list[dict[str, Any]]:
    """Rows of the per-query table, worst first under ``measure``."""
    outcome = evaluation.system.outcome
    aps = {(row.measure, row.query): row.ap for row in outcome.rows}
    names = list(dict.fromkeys(row.measure for row in outcome.rows))
    rows = [
        {
            "first": row,
            "group": evaluation.groups.get(row.query, ""),
            "aps": [aps.get((name, row.query)) for name in names],
        }
        for row in outcome.rows
        if row.measure == measure
    ]
    return sorted(rows, key=_worst_first)


def _worst_first(row: Mapping[str, Any]) -> tuple[bool, float, str]:
    first: QueryRow = row["first"]
    return first.ap is None, first.ap or 0.0, first.query
