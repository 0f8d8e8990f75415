"""Two results without their scores: average precisions of the queries that both have, and figures as they are."""

from __future__ import annotations

import numpy as np

from ...core.ids import some_of
from ...core.metrics import mean_with_interval
from ...search.text import shown
from .comparison import Difference, wins_and_losses
from .results import Result


def differences_by_query(
    a: Result, b: Result, *, num_resamples: int, level: float, seed: int
) -> tuple[list[Difference], list[str]]:
    """Differences of the measures that both have, and what is to be said of them.

    A query counts where both have an average precision and the same number of positives. Pooled figures and those of
    single events have no interval, and are of whatever each result has.
    """
    notes = _coverage_notes(a, b)
    differences = []
    for measure in a.aps:
        if measure in b.aps:
            kept = _common_queries(measure, a, b, notes)
            if kept:
                ours, theirs = ([side.aps[measure][query] or 0.0 for query in kept] for side in (a, b))
                apart = np.array(theirs) - np.array(ours)
                mean, *ends = mean_with_interval(apart, seed, num_resamples=num_resamples, level=level)
                low, high = ends if len(kept) > 1 else (None, None)
                of_a, of_b = (sum(values) / len(kept) for values in (ours, theirs))
                wins, losses = wins_and_losses(apart)
                differences.append(Difference(measure, of_a, of_b, mean, low, high, len(kept), wins, losses))
    unpaired = _unpaired(a, b)
    if unpaired and a.positives != b.positives:
        names = ", ".join(difference.measure for difference in unpaired)
        notes.append(f"{names}: of all queries and positives that each has, not of the common ones alone")
    return [*differences, *unpaired], notes


def _coverage_notes(a: Result, b: Result) -> list[str]:
    (a_found, of), (b_found, _) = a.coverage["database"], b.coverage["database"]
    if a_found == b_found:
        alike = a.database_sha256 == b.database_sha256
        return [] if alike else [f"a and b were searched in {a_found:,} videos each, but not in the same ones"]
    return [
        f"a was searched in {a_found:,} of {of:,} videos, b in {b_found:,}: with fewer wrong answers to choose from a "
        "figure is higher"
    ]


def _common_queries(measure: str, a: Result, b: Result, notes: list[str]) -> list[str]:
    """Queries that have a value in both and the same number of positives; the others go into ``notes``."""
    ours, theirs = a.aps[measure], b.aps[measure]
    for name, own, other in (("a", ours, theirs), ("b", theirs, ours)):
        if lone := [shown(query) for query in own if query not in other]:
            notes.append(f"{len(lone)} queries of {measure} are in {name} only, and left out: {some_of(lone)}")
    common = [query for query in ours if query in theirs]
    valued = [query for query in common if ours[query] is not None and theirs[query] is not None]
    if len(valued) < len(common):
        without = [shown(query) for query in common if query not in set(valued)]
        notes.append(
            f"{len(without)} queries of {measure} have no average precision, and are left out: {some_of(without)}"
        )
    counts = {query: (a.positives.get((measure, query)), b.positives.get((measure, query))) for query in valued}
    if unlike := [shown(query) for query, (own, other) in counts.items() if own != other]:
        notes.append(
            f"{len(unlike)} queries of {measure} have another number of positives in b than in a, and are left out: "
            f"{some_of(unlike)}"
        )
    return [query for query, (own, other) in counts.items() if own == other]


def _unpaired(a: Result, b: Result) -> list[Difference]:
    """Figures that are no mean over queries: those of pooled pairs, and of single events."""
    found = []
    for name, value in a.metrics.items():
        other = b.metrics.get(name)
        pairs = {name: (value, other)}
        if isinstance(value, dict) and isinstance(other, dict):
            pairs = {f"{name}: {part}": (value[part], other.get(part)) for part in value}
        elif name in a.aps:
            continue
        found += [
            Difference(measure, one, two, two - one)
            for measure, (one, two) in pairs.items()
            if isinstance(one, float) and isinstance(two, float)
        ]
    return found
