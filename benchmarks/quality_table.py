"""The tables of train_quality.py: means over seeds and queries, and what of a difference chance may explain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from reelkin.core.metrics import mean_with_interval

Scores = dict[str, dict[str, dict[str, float]]]
"""Average precision by level (video, frame), strength and query."""


def pooled(seeds: Iterable[Scores], level: str) -> dict[str, float]:
    """Average precision by query, over all strengths: its mean over the seeds."""
    values: dict[str, list[float]] = {}
    for scores in seeds:
        for of_query in scores[level].values():
            for query, value in of_query.items():
                values.setdefault(query, []).append(value)
    return {query: float(np.mean(found)) for query, found in values.items()}


def mean_of(values: Mapping[str, float]) -> float:
    """The mean over queries."""
    return float(np.mean(list(values.values())))


def over_seeds(values: Sequence[float]) -> str:
    """The 95 % interval of the seeds' mean by Student's t; with one seed there is none."""
    if len(values) < 2:
        return "-"
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return f"{np.mean(values) - half:+.3f} to {np.mean(values) + half:+.3f}"


@dataclass(frozen=True)
class Table:
    """Rows against a baseline.

    Attributes:
        mean: the baseline's scores, mean pooling.
        source: of each query; queries of one source succeed and fail together.
    """

    mean: Scores
    source: Mapping[str, str]

    @property
    def size(self) -> str:
        """Queries and sources in words."""
        return f"{len(self.source)} queries from {len(set(self.source.values()))} sources"

    def heading(self) -> str:
        """The first two lines."""
        names = ["", "variant", "seeds", *self.mean["video"], "all", "gain over mean pooling (95 % over sources)"]
        names += ["95 % over seeds", "frame level"]
        return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"

    def row(self, what: str, name: str, seeds: Sequence[Scores]) -> str:
        """A line for one variant with the scores of its seeds."""
        strengths = [np.mean([mean_of(scores["video"][each]) for scores in seeds]) for each in self.mean["video"]]
        values, base = pooled(seeds, "video"), pooled([self.mean], "video")
        gains = [values[query] - base[query] for query in base]
        gain, low, high = mean_with_interval(gains, groups=[self.source[query] for query in base])
        of_seeds = [mean_of(pooled([scores], "video")) - mean_of(base) for scores in seeds]
        cells = [what, name, str(len(seeds)), *(f"{each:.3f}" for each in strengths), f"{mean_of(values):.3f}"]
        cells += [f"{gain:+.3f} ({low:+.3f} to {high:+.3f})", over_seeds(of_seeds)]
        return f"| {' | '.join(cells)} | {mean_of(pooled(seeds, 'frame')):.3f} |"
