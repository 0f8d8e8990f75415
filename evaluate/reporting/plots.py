"""The charts of a report as files, for papers and slides: SVG and PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.files import publish_bytes
from ...search.text import shown
from .charts import PANELS_PER_LINE, CurvePanel, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
DOTS_PER_INCH = 200
OWN, PLAIN, GRID = "#1b5fa8", "#7a7f88", "#dedcd6"
DASHES: Sequence[Any] = ("-", "-", (0, (5, 2)), (0, (1.5, 2)), (0, (7, 2, 1.5, 2)))
TICKS = (0, 0.25, 0.5, 0.75, 1)
SETTINGS: Any = {
    "svg.hashsalt": "reelkin",  # the same figures give the same file
    "svg.fonttype": "path",
    "text.parse_math": False,  # names are text, whatever they hold
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GRID,
}


def write_curves(panels: Sequence[CurvePanel], paths: Sequence[Path], caption: str) -> None:
    """Precision against recall, a panel per measure. ``paths``: files to write, .svg or .png."""
    per_line = min(PANELS_PER_LINE, len(panels))
    with _figure(len(panels), per_line, 2.7, caption) as (figure, axes):
        for panel, axis in zip(panels, axes, strict=False):
            axis.set(title=shown(panel.name), xlabel="recall", ylabel="precision")
            axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.02), xticks=TICKS, yticks=TICKS)
            axis.grid(color=GRID)
            for line in reversed(panel.lines):
                colour, dash = (PLAIN, DASHES[line.style % len(DASHES)]) if line.trivial else (OWN, "-")
                marker = "o" if len(line.recall) == 1 else ""
                axis.plot(
                    line.recall, line.precision, color=colour, linestyle=dash, marker=marker, label=shown(line.name)
                )
        handles, names = axes[0].get_legend_handles_labels()
        if len(names) > 1:
            figure.legend(handles[::-1], names[::-1], loc="outside lower center", ncols=len(names), frameon=False)
        _publish(figure, paths)


def write_dots(panels: Sequence[Panel], paths: Sequence[Path], caption: str) -> None:
    """Figures with their intervals, a panel per measure, in it a row per system."""
    per_line = min(PANELS_PER_LINE, len(panels))
    num_rows = max(len(panel.marks) for panel in panels)
    with _figure(len(panels), per_line, 0.9 + 0.28 * num_rows, caption) as (figure, axes):
        for place, (panel, axis) in enumerate(zip(panels, axes, strict=False)):
            names = [shown(mark.name) if place % per_line == 0 else "" for mark in panel.marks]
            axis.set(title=shown(panel.name), xlim=(-0.03, 1.03), ylim=(num_rows - 0.4, -0.6), xticks=TICKS)
            axis.set_yticks(range(len(names)), names)
            axis.tick_params(axis="y", length=0)
            axis.grid(axis="x", color=GRID)
            for row, mark in enumerate(panel.marks):
                if mark.value is None:
                    continue
                colour, inside = (PLAIN, "white") if mark.trivial else (OWN, OWN)
                if mark.low is not None and mark.high is not None:
                    axis.plot([mark.low, mark.high], [row, row], color=colour, linewidth=2)
                axis.plot(mark.value, row, "o", color=colour, markerfacecolor=inside, markersize=5)
                left = mark.value > 0.8
                end = (mark.low if left else mark.high) or mark.value
                side = "right" if left else "left"
                axis.text(end + (-0.03 if left else 0.03), row, f"{mark.value:.3f}", va="center", ha=side, color=colour)
        _publish(figure, paths)


@contextmanager
def _figure(count: int, per_line: int, height: float, caption: str) -> Iterator[tuple[Figure, list[Axes]]]:
    """``count`` axes in lines of ``per_line``, each ``height`` inches high; the settings hold inside the context."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        lines = math.ceil(count / per_line)
        figure = Figure(figsize=(3.2 * per_line + 0.8, height * lines + 0.7), layout="constrained")
        axes = figure.subplots(lines, per_line, squeeze=False).ravel().tolist()
        for axis in axes[count:]:
            axis.remove()
        figure.suptitle(shown(caption), fontsize=10)
        yield figure, axes[:count]


def _publish(figure: Figure, paths: Sequence[Path]) -> None:
    for path in paths:
        out = io.BytesIO()
        kind = path.suffix.removeprefix(".")
        with warnings.catch_warnings():  # a letter that the font lacks is drawn as a box
            warnings.filterwarnings("ignore", message="Glyph .* missing")
            figure.savefig(out, format=kind, dpi=DOTS_PER_INCH, metadata={"Date": None} if kind == "svg" else None)
        publish_bytes(path, out.getvalue())
