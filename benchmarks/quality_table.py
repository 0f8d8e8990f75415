"""The tables of train_quality.py: means over queries, splits and seeds, and what of a difference chance may explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from reelkin.core.metrics import mean_with_interval

Scores = dict[str, dict[str, dict[str, float]]]
"""Average precision by level (video, frame), strength and query."""
Runs = Mapping[tuple[int, int], Scores]
"""Scores of each split and seed."""


def by_query(runs: Runs, level: str, strengths: Sequence[str]) -> dict[tuple[int, str], float]:
    """Average precision by split and query, over the strengths given: its mean over the seeds."""
    values: dict[tuple[int, str], list[float]] = {}
    for (split, _), scores in runs.items():
        for strength in strengths:
            for query, value in scores[level][strength].items():
                values.setdefault((split, query), []).append(value)
    return {key: float(np.mean(found)) for key, found in values.items()}


@dataclass(frozen=True)
class Table:
    """Rows against a baseline.

    Attributes:
        base: the baseline's scores in each split; its seed is 0.
        name: the baseline's.
        source: of each query; queries of one source succeed and fail together.
        strengths: that are reported.
    """

    base: Runs
    name: str
    source: Mapping[str, str]
    strengths: Sequence[str]

    @property
    def size(self) -> str:
        """Queries and sources in words."""
        queries = [query for _, query in by_query(self.base, "video", self.strengths)]
        sources = {self.source[query] for query in queries}
        return f"{len(queries)} queries from {len(sources)} sources in {len(self.base)} splits"

    def heading(self) -> str:
        """The first two lines."""
        names = ["", "variant", "runs", *self.strengths, "all", f"gain over {self.name} (95 % over sources)"]
        names += ["gain in each split", "SD over seeds", "frame level", "gain at frame level (95 %)"]
        return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"

    def gain(self, runs: Runs, level: str) -> str:
        """Over the baseline on the same queries, with its bootstrap interval over sources."""
        values, base = (by_query(each, level, self.strengths) for each in (runs, self.base))
        splits = {split for split, _ in runs}
        keys = [key for key in base if key[0] in splits]
        mean, low, high = mean_with_interval(
            [values[key] - base[key] for key in keys], groups=[self.source[query] for _, query in keys]
        )
        return f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"

    def of_splits(self, runs: Runs) -> dict[int, list[float]]:
        """By split the gain of each seed."""
        found: dict[int, list[float]] = {}
        for (split, seed), scores in runs.items():
            values = by_query({(split, seed): scores}, "video", self.strengths)
            base = by_query({(split, 0): self.base[split, 0]}, "video", self.strengths)
            found.setdefault(split, []).append(float(np.mean([values[key] - base[key] for key in base])))
        return found

    def row(self, what: str, name: str, runs: Runs) -> str:
        """A line for one variant."""
        means = [np.mean(list(by_query(runs, "video", [each]).values())) for each in self.strengths]
        means += [np.mean(list(by_query(runs, "video", self.strengths).values()))]
        gains = self.of_splits(runs)
        deviations = [np.var(of_seeds, ddof=1) for of_seeds in gains.values() if len(of_seeds) > 1]
        cells = [what, name, str(len(runs)), *(f"{each:.3f}" for each in means), self.gain(runs, "video")]
        cells += [", ".join(f"{np.mean(of_seeds):+.3f}" for _, of_seeds in sorted(gains.items()))]
        cells += [f"{np.sqrt(np.mean(deviations)):.3f}" if deviations else "-"]
        if any("frame" not in scores for scores in runs.values()):
            return f"| {' | '.join(cells)} | - | - |"
        frame = np.mean(list(by_query(runs, "frame", self.strengths).values()))
        return f"| {' | '.join(cells)} | {frame:.3f} | {self.gain(runs, 'frame')} |"
