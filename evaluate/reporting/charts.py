"""Geometry of the charts on report pages; charts.html.j2 draws them.

Lengths are in the units of an SVG's view box, which is as wide as the page's text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH = 1000.0
PANELS_PER_LINE = 3
LONGEST_NAME = 22
"""Characters of a name that fit beside a panel."""
CURVE_HEIGHT = 230.0


@dataclass(frozen=True)
class Mark:
    """A figure between 0 and 1 with its interval, if there is one; ``trivial``: of a solution without training."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    trivial: bool = False


@dataclass(frozen=True)
class Panel:
    """Figures of several methods under one heading."""

    name: str
    marks: Sequence[Mark]


@dataclass(frozen=True)
class Line:
    """Precision against recall of one method; rising recall. ``style``: its number among the methods."""

    name: str
    recall: Sequence[float]
    precision: Sequence[float]
    style: int = 0
    trivial: bool = False


@dataclass(frozen=True)
class CurvePanel:
    """Precision against recall of several methods under one heading."""

    name: str
    lines: Sequence[Line]


def short(name: str) -> str:
    """A name that fits beside a panel."""
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def dots(panels: Sequence[Panel]) -> dict[str, Any]:
    """A panel each, in them a row per method: a dot with its interval on an axis from 0 to 1."""
    label, right, gap, row_height, top = 172.0, 14.0, 26.0, 26.0, 30.0
    per_line = min(PANELS_PER_LINE, len(panels))
    width = (WIDTH - label - right - gap * (per_line - 1)) / per_line
    num_rows = max(len(panel.marks) for panel in panels)
    line_height = top + num_rows * row_height + 34.0
    drawn = []
    for number, panel in enumerate(panels):
        line, column = divmod(number, per_line)
        x, y = label + column * (width + gap), line * line_height + top
        marks = [_mark(mark, x, width, y + (row + 0.5) * row_height) for row, mark in enumerate(panel.marks)]
        ticks = [{"x": x + width * tick / 4, "text": f"{tick / 4:g}"} for tick in range(5)]
        drawn.append(
            {
                "name": panel.name,
                "x": x,
                "y": y,
                "width": width,
                "height": num_rows * row_height,
                "marks": marks,
                "ticks": ticks,
                "first": column == 0,
            }
        )
    return {"height": math.ceil(len(panels) / per_line) * line_height, "panels": drawn, "label_x": label - 12}


def _mark(mark: Mark, x: float, width: float, middle: float) -> dict[str, Any]:
    drawn: dict[str, Any] = {"name": short(mark.name), "y": middle, "trivial": mark.trivial, "value": None}
    if mark.value is not None:
        low, high = (mark.value if end is None else end for end in (mark.low, mark.high))
        drawn |= {
            "value": f"{mark.value:.3f}",
            "x": x + width * mark.value,
            "low": x + width * low,
            "high": x + width * high,
        }
        # The figure stands where there is room: right of the interval, or left of it near the end of the axis.
        drawn["text_left"] = x + width - drawn["high"] < 46
    return drawn


def curves(panels: Sequence[CurvePanel]) -> dict[str, Any]:
    """A panel each with precision against recall, both from 0 to 1, a line per method."""
    left, right, gap, top, bottom = 42.0, 14.0, 52.0, 30.0, 46.0
    per_line = min(PANELS_PER_LINE, max(2, len(panels)))
    width = (WIDTH - left - right - gap * (per_line - 1)) / per_line
    line_height = top + CURVE_HEIGHT + bottom
    drawn = []
    for number, panel in enumerate(panels):
        line, column = divmod(number, per_line)
        x, y = left + column * (width + gap), line * line_height + top
        drawn.append(
            {
                "name": panel.name,
                "x": x,
                "y": y,
                "width": width,
                "height": CURVE_HEIGHT,
                "ticks": [
                    {"x": x + width * tick / 4, "y": y + CURVE_HEIGHT * (1 - tick / 4), "text": f"{tick / 4:g}"}
                    for tick in range(5)
                ],
                "lines": [
                    {
                        "name": each.name,
                        "trivial": each.trivial,
                        "style": each.style,
                        "points": _points(each, x, y, width),
                    }
                    for each in panel.lines
                ],
            }
        )
    return {"height": math.ceil(len(panels) / per_line) * line_height, "panels": drawn}


def _points(line: Line, x: float, y: float, width: float) -> str:
    """The polyline's points; those that would fall on the one before are left out, a single one is made visible."""
    points: list[str] = []
    for recall, precision in zip(line.recall, line.precision, strict=True):
        point = f"{x + width * recall:.1f},{y + CURVE_HEIGHT * (1 - precision):.1f}"
        if not points or points[-1] != point:
            points.append(point)
    if len(points) == 1:
        points.append(f"{x + width * line.recall[0] - 6:.1f},{points[0].partition(',')[2]}")
    return " ".join(points)
