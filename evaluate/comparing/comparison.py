"""What a comparison of two systems says, and its text and JSON forms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...search.text import shown
from ..published.averages import Floats
from ..published.scoring import FEW_QUERIES, ROUGH

FORMAT, VERSION = "reelkin-comparison", 2
SAME = 1e-9
"""Average precisions closer than this are equal."""
NAMES = {"queries": "queries", "database": "videos"}


@dataclass(frozen=True)
class Difference:
    """One measure, b - a.

    Attributes:
        measure: its name.
        a, b: the figures of both.
        mean: b - a.
        low, high: its interval over resamples of queries, the same for both systems; None without any, and of one
            query alone.
        num_queries: queries that the figures are of; 0 where that is not known.
        wins, losses: queries that b, and that a, ranks better; the others are equal. None of pooled measures.
    """

    measure: str
    a: float
    b: float
    mean: float
    low: float | None = None
    high: float | None = None
    num_queries: int = 0
    wins: int | None = None
    losses: int | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """Two systems side by side.

    Attributes:
        facts: what both results agree on.
        coverage: of "a" and "b", and of "both" where that is known: "queries" and "database", [found, of].
        differences: one for each measure.
        judged_again: whether both were judged on the common queries and videos alone.
        notes: what is not alike in the two, and what was left out.
        level: of the intervals.
        num_common: queries with a figure in both.
    """

    facts: Mapping[str, str]
    coverage: Mapping[str, Mapping[str, tuple[int, int]]]
    differences: tuple[Difference, ...]
    judged_again: bool
    notes: tuple[str, ...] = field(default=())
    level: float = 0.95
    num_common: int = 0

    def as_json(self, **settings: Any) -> dict[str, Any]:
        """The content of the file that ``--output`` names; ``settings`` are plain values of how it was made."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **self.facts,
            **settings,
            "level": self.level,
            "judged_again": self.judged_again,
            "coverage": {name: {what: list(pair) for what, pair in of.items()} for name, of in self.coverage.items()},
            "measures": [vars(difference) for difference in self.differences],
            "notes": list(self.notes),
        }

    @property
    def common(self) -> str:
        """How much both have; it stands in every line."""
        if "both" in self.coverage:
            return f"{self._covered('both')} in both"
        searched = [self.coverage[name]["database"] for name in ("a", "b")]
        return (
            f"{self.num_common:,} of {self.coverage['a']['queries'][1]:,} queries in both; a searched in "
            f"{searched[0][0]:,}, b in {searched[1][0]:,} of {searched[0][1]:,} videos"
        )

    def text(self) -> str:
        """A table for a terminal."""
        what = ", ".join(shown(value) for key, value in self.facts.items() if key != "annotation_sha256" and value)
        how = "both judged again on what both have" if self.judged_again else "by the figures that each has"
        lines = [f"{what}: {how}  [{self.common}]"]
        lines += [f"  {name}: {self._covered(name)}  [{self.common}]" for name in ("a", "b")]
        width = max((len(shown(difference.measure)) for difference in self.differences), default=0)
        lines += [f"{self._line(each, width)}  [{self.common}]" for each in self.differences]
        return "\n".join([*lines, *(f"note: {shown(note)}  [{self.common}]" for note in self.notes)])

    def _line(self, each: Difference, width: int) -> str:
        line = f"  {shown(each.measure):<{width}}  a {each.a:.4f}  b {each.b:.4f}  b - a {each.mean:+.4f}"
        if each.low is None or each.high is None:
            line += " (no interval)"
        else:
            verdict = "" if each.clear else ", not distinguishable from 0"
            line += f" ({each.low:+.4f} to {each.high:+.4f}, {self.level:.0%}{verdict})"
        if not each.num_queries:
            return line
        line += f"; {each.num_queries:,} queries"
        if each.wins is None or each.losses is None:
            return f"{line}, all pairs in one ranking"
        ties = each.num_queries - each.wins - each.losses
        return f"{line}: b better on {each.wins:,}, a on {each.losses:,}, equal on {ties:,}"

    def _covered(self, name: str) -> str:
        of = self.coverage[name]
        return ", ".join(f"{found:,} of {total:,} {NAMES[what]}" for what, (found, total) in of.items())


def interval(mean: float, drawn_N: Floats, level: float, num_queries: int) -> tuple[float | None, float | None]:
    """Ends of the interval of ``mean`` from its resamples, of which those without a value (NaN) do not count; none of
    a single query, which is drawn again and again."""
    valued = drawn_N[~np.isnan(drawn_N)]
    if not len(valued) or num_queries < 2:
        return None, None
    low, high = np.quantile(valued, [(1 - level) / 2, (1 + level) / 2])
    return min(float(low), mean), max(float(high), mean)


def rough(differences: Iterable[Difference]) -> list[str]:
    """A note on intervals over few queries, if there are such."""
    few = [
        f"{shown(each.measure)} ({each.num_queries})"
        for each in differences
        if each.low is not None and each.num_queries < FEW_QUERIES
    ]
    return [f"{ROUGH}: {', '.join(few)}"] if few else []


def wins_and_losses(differences_Q: Floats) -> tuple[int, int]:
    """Queries that b, and that a, ranks better, from b - a."""
    return int((differences_Q > SAME).sum()), int((differences_Q < -SAME).sum())
