"""The report of scores against a ground truth: figures, examples and every query on one page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.files import publish_text
from ..published.averages import LEVELS
from ..rankings import Match, QueryResult, TaskResult
from ..results import BASELINE, Results, collapse_warnings
from . import charts
from .page import MAX_QUERY_ROWS, Strips, flat, pictures, render_page

OWN_STYLES, TRIVIAL_STYLES = (0, 2, 3), (1, 2, 3, 4)
"""Dashes of the lines of models, and of solutions without training; further ones are solid."""


@dataclass(frozen=True)
class Example:
    """A query to show with its best matches, and where its average precision lies."""

    task: str
    query: QueryResult
    place: str


def write_report(
    results: Results, path: str | Path, *, strips: Strips | None = None, show: str | None = None, num_examples: int = 8
) -> None:
    """Write the page.

    Args:
        results: what to show.
        path: of the HTML file.
        strips: frames of a video; without it the examples are ids and scores only.
        show: the method whose matches are shown as examples. Default: the first that is no trivial solution.
        num_examples: queries shown: the worst, those around the median, and the best.
    """
    publish_text(path, render(results, strips=strips, show=show, num_examples=num_examples))


def render(
    results: Results, *, strips: Strips | None = None, show: str | None = None, num_examples: int = 8, matches: int = 4
) -> str:
    """The page as a string; arguments as `write_report`, ``matches`` is the number of places shown per example."""
    names = [method.method.name for method in results.tasks[0].methods]
    shown_method = show or next((m.method.name for m in results.tasks[0].methods if not m.method.trivial), names[0])
    examples = choose_examples(results.tasks, shown_method, num_examples)
    curves = [panel for panel in map(_curve_panel, results.tasks) if panel.lines]
    return render_page(
        "tasks.html.j2",
        results=results,
        names=names,
        several=len(results.tasks) > 1,
        protocols=list(dict.fromkeys(result.task.protocol for result in results.tasks)),
        trivial={method.method.name: method.method.trivial for method in results.tasks[0].methods},
        descriptions={method.method.name: method.method.description for method in results.tasks[0].methods},
        gains={result.task.name: results.gains(result) for result in results.tasks},
        baseline=BASELINE,
        warnings=collapse_warnings(results),
        fewest_draws=min(result.task.num_draws for result in results.tasks),
        headline=_headline(results, shown_method),
        curve_chart=charts.curves(curves) if curves else None,
        chart=charts.dots([_panel(result) for result in results.tasks]),
        shown_method=shown_method,
        examples=[_example_view(example, strips, matches) for example in examples],
        with_pictures=strips is not None,
        rows=_query_rows(results, shown_method),
        num_rows=sum(len(result.task.queries) for result in results.tasks),
        facts=[*flat("", results.inputs), *flat("", results.config)],
    )


def choose_examples(tasks: Sequence[TaskResult], method: str, count: int) -> list[Example]:
    """The worst, the middle and the best queries over all tasks, worst first, each once."""
    pool = [
        (query.ap, result.task.name, query)
        for result in tasks
        for query in result.by_name(method).queries
        if query.ap is not None
    ]
    pool.sort(key=lambda entry: (entry[0], entry[1], entry[2].query))
    count = min(count, len(pool))
    num_worst, num_best = math.ceil(count * 3 / 8), count * 3 // 8
    num_middle = count - num_worst - num_best
    middle = (len(pool) - num_middle) // 2
    middle = max(num_worst, min(middle, len(pool) - num_best - num_middle))
    chosen = [
        *(("among the worst", entry) for entry in pool[:num_worst]),
        *(("near the median", entry) for entry in pool[middle : middle + num_middle]),
        *(("among the best", entry) for entry in pool[len(pool) - num_best :]),
    ]
    return [Example(task, query, place) for place, (_, task, query) in chosen]


def _example_view(example: Example, strips: Strips | None, matches: int) -> dict[str, Any]:
    return {
        "task": example.task,
        "place": example.place,
        "query": example.query,
        "pictures": pictures(strips, example.query.query),
        "matches": [
            {"rank": rank, "match": match, "pictures": pictures(strips, match.video_id)}
            for rank, match in enumerate(_until_all_found(example.query)[:matches], 1)
        ],
    }


def _until_all_found(query: QueryResult) -> Sequence[Match]:
    """The ranking up to the last relevant video: what follows it is no mistake."""
    found = 0
    for place, match in enumerate(query.best, 1):
        found += match.relevant
        if found == query.num_positives:
            return query.best[:place]
    return query.best


def _headline(results: Results, method: str) -> list[dict[str, Any]]:
    """Per task the figure of the shown method beside that of mean pooling."""
    lines = []
    for result in results.tasks:
        names = [other.method.name for other in result.methods]
        own = result.by_name(method)
        base = result.by_name(BASELINE) if BASELINE in names and method != BASELINE else None
        lines.append({"task": result.task.name, "own": own, "base": base})
    return lines


def _query_rows(results: Results, sort_by: str) -> list[dict[str, Any]]:
    """Rows of the per-query table, worst first under the shown method."""
    rows: list[dict[str, Any]] = []
    for result in results.tasks:
        found = {m.method.name: {q.query: q for q in m.queries} for m in result.methods}
        for query in result.task.queries:
            by_method = {name: queries[query] for name, queries in found.items()}
            first = by_method[sort_by]
            rows.append({"task": result.task.name, "query": query, "first": first, "aps": by_method})
    rows.sort(key=lambda row: (row["first"].ap is None, row["first"].ap or 0.0, row["task"], row["query"]))
    return rows[:MAX_QUERY_ROWS]


def _curve_panel(result: TaskResult) -> charts.CurvePanel:
    lines, styles = [], {True: iter(TRIVIAL_STYLES), False: iter(OWN_STYLES)}
    for other in result.methods:
        if len(other.precision):
            style = next(styles[other.method.trivial], 0)
            line = charts.Line(other.method.name, LEVELS.tolist(), other.precision, style, other.method.trivial)
            lines.append(line)
    return charts.CurvePanel(result.task.name or "mAP", lines)


def _panel(result: TaskResult) -> charts.Panel:
    marks = [
        charts.Mark(other.method.name, other.mean, other.low, other.high, other.method.trivial)
        for other in result.methods
    ]
    return charts.Panel(result.task.name, marks)
