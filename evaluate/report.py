"""The report page: one HTML file that opens offline, with figures, examples and every query.

Ids come from file names and are hostile text: the template escapes everything, and characters that a page would hide or
that would reorder a line are written out. Pictures are JPEG data addresses; a content policy forbids loading anything.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core.files import publish_text
from ..search.text import shown
from .rankings import Match, QueryResult, TaskResult
from .results import BASELINE, Results, collapse_warnings

TEMPLATE = Path(__file__).parent / "report.html.j2"
MAX_QUERY_ROWS = 500
"""Rows of the per-query table; the worst are kept, queries.csv has all."""
FRAMES_SHOWN = 4
FRAME_WIDTH = 160
"""Pixels; shown at about half of it, so that print and dense screens stay sharp."""

Strips = Callable[[str], Sequence[NDArray[np.uint8]]]
"""video id -> a few frames uint8 [H, W, 3]; none if the video cannot be shown."""


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
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["shown"] = shown
    names = [method.method.name for method in results.tasks[0].methods]
    shown_method = show or next((m.method.name for m in results.tasks[0].methods if not m.method.trivial), names[0])
    examples = choose_examples(results.tasks, shown_method, num_examples)
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
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
        chart=chart(results),
        shown_method=shown_method,
        examples=[_example_view(example, strips, matches) for example in examples],
        with_pictures=strips is not None,
        rows=_query_rows(results, shown_method),
        num_rows=sum(len(result.task.queries) for result in results.tasks),
        facts=[*_flat("", results.inputs), *_flat("", results.config)],
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


def picture(frame: NDArray[np.uint8]) -> str:
    """A frame as a JPEG data address, at most 160 pixels wide."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=78, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(out.getvalue()).decode("ascii")


def spread(frames: Sequence[NDArray[np.uint8]], count: int = FRAMES_SHOWN) -> list[NDArray[np.uint8]]:
    """``count`` frames spread evenly over those given, never one twice."""
    if len(frames) <= count:
        return list(frames)
    return [frames[int(index)] for index in (np.arange(count) + 0.5) * len(frames) / count]


def _example_view(example: Example, strips: Strips | None, matches: int) -> dict[str, Any]:
    def pictures(video_id: str) -> list[str]:
        return [] if strips is None else [picture(frame) for frame in spread(strips(video_id))]

    return {
        "task": example.task,
        "place": example.place,
        "query": example.query,
        "pictures": pictures(example.query.query),
        "matches": [
            {"rank": rank, "match": match, "pictures": pictures(match.video_id)}
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


def _flat(prefix: str, values: Any) -> list[tuple[str, str]]:
    """Nested JSON values as (dotted name, text) rows."""
    if not isinstance(values, dict):
        values = dict(values)
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, dict) and value:
            rows += _flat(f"{dotted}.", value)
        else:
            rows.append((dotted, value if isinstance(value, str) else json.dumps(value, default=str)))
    return rows


def chart(results: Results) -> dict[str, Any]:
    """Geometry of the chart: a panel per task, a row per method, a dot with its interval on an axis from 0 to 1.

    Lengths are in the units of the SVG's view box, which is as wide as the page's text.
    """
    label, right, gap, row_height, top = 150.0, 14.0, 26.0, 26.0, 30.0
    panels_per_line = min(3, len(results.tasks))
    width = (1000.0 - label - right - gap * (panels_per_line - 1)) / panels_per_line
    num_rows = max(len(result.methods) for result in results.tasks)
    line_height = top + num_rows * row_height + 34.0
    panels = []
    for number, result in enumerate(results.tasks):
        line, column = divmod(number, panels_per_line)
        x, y = label + column * (width + gap), line * line_height + top
        marks = []
        for row, other in enumerate(result.methods):
            middle = y + (row + 0.5) * row_height
            mark: dict[str, Any] = {
                "name": other.method.name,
                "y": middle,
                "trivial": other.method.trivial,
                "value": None,
            }
            if other.mean is not None and other.low is not None and other.high is not None:
                at = x + width * other.mean
                mark |= {
                    "value": f"{other.mean:.3f}",
                    "x": at,
                    "low": x + width * other.low,
                    "high": x + width * other.high,
                }
                # The figure stands where there is room: right of the interval, or left of it near the end of the axis.
                mark["text_left"] = x + width - mark["high"] < 46
            marks.append(mark)
        ticks = [{"x": x + width * tick / 4, "text": f"{tick / 4:g}"} for tick in range(5)]
        panels.append(
            {
                "name": result.task.name,
                "x": x,
                "y": y,
                "width": width,
                "height": num_rows * row_height,
                "marks": marks,
                "ticks": ticks,
                "first": column == 0,
            }
        )
    num_lines = math.ceil(len(results.tasks) / panels_per_line)
    return {"height": num_lines * line_height, "panels": panels, "label_x": label - 12}
