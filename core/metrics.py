"""Ranking metrics: tie-aware average precision, its pooled form, and the bootstrap interval of a mean.

Average precision here is the *expected* value over all orders of videos with equal scores, in closed form, so a ranking
with ties has one figure that depends neither on the order of the database nor on luck, and a constant score gives
exactly the chance level. Without ties it is the usual average precision (the area under the precision-recall steps).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray


def _checked(scores: ArrayLike, relevant: ArrayLike, query: str) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores as float64 [V] and relevance as bool [V]; refuses what cannot be ranked, with the query's name."""
    where = f" of query {query!r}" if query else ""
    score_V = np.asarray(scores, dtype=np.float64)
    relevant_V = np.asarray(relevant)
    if score_V.ndim != 1 or relevant_V.shape != score_V.shape:
        raise ValueError(f"scores{where} have shape {score_V.shape} and relevance {relevant_V.shape}; both must be [V]")
    if relevant_V.dtype != np.bool_:
        if not np.isin(relevant_V, (0, 1)).all():
            raise ValueError(f"relevance{where} holds values other than 0 and 1")
        relevant_V = relevant_V.astype(np.bool_)
    num_nan = int(np.isnan(score_V).sum())
    if num_nan:
        raise ValueError(
            f"{num_nan} of the {len(score_V)} scores{where} are NaN (the first at position "
            f"{int(np.isnan(score_V).argmax())}) and cannot be ranked; look for non-finite embeddings"
        )
    return score_V, relevant_V


def average_precision(
    scores: ArrayLike, relevant: ArrayLike, *, num_positives: int | None = None, query: str = ""
) -> float | None:
    """Expected average precision of one query over the random orders of its tied scores.

    A tie group of n videos, r of them relevant, that begins after t videos of which R are relevant, adds
    ``sum over i = 1..n of r/n * (R + 1 + (i - 1) * (r - 1) / (n - 1)) / (t + i)``: place i holds a relevant video with
    probability r/n and, given that, each of the i - 1 tied places before it is relevant with (r - 1)/(n - 1). That is
    the exact mean over the n! orders (McSherry and Najork, "Computing Information Retrieval Performance Measures
    Efficiently in the Presence of Tied Scores", 2008).

    Args:
        scores: [V] real, larger is more similar; infinities are allowed (and tie with their like).
        relevant: [V] bool or 0/1.
        num_positives: positives in the database, when some of them are missing from ``scores`` (a truncated ranking):
            they count as never found. Default: the relevant videos among ``scores``.
        query: name used in messages.

    Returns:
        A value in [0, 1], or None if there is no positive: such a query has no average precision, and is to be reported
        rather than averaged as 0 or 1.

    Raises:
        ValueError: a score is NaN, shapes differ, or ``num_positives`` is below the number of relevant videos given.
    """
    score_V, relevant_V = _checked(scores, relevant, query)
    found = int(relevant_V.sum())
    total = found if num_positives is None else int(num_positives)
    if total < found:
        raise ValueError(f"query {query!r}: num_positives is {total}, yet {found} relevant videos are in its ranking")
    if total == 0:
        return None
    if found == 0:
        return 0.0
    order = np.argsort(-score_V, kind="stable")
    score_V, relevant_V = score_V[order], relevant_V[order]
    # G tie groups: where each begins, its size and its number of relevant videos; then spread back over the places.
    begins_G = np.flatnonzero(np.r_[True, score_V[1:] != score_V[:-1]])
    size_G = np.diff(np.r_[begins_G, len(score_V)])
    hits_G = np.add.reduceat(relevant_V.astype(np.int64), begins_G)
    hits_before_G = np.cumsum(hits_G) - hits_G
    group_V = np.repeat(np.arange(len(begins_G)), size_G)
    n, r, before = size_G[group_V], hits_G[group_V], hits_before_G[group_V]
    place_V = np.arange(1, len(score_V) + 1)
    earlier_in_group = place_V - 1 - begins_G[group_V]
    tied_hits = earlier_in_group * (r - 1) / np.maximum(n - 1, 1)
    gain_V = np.where(r > 0, r / n * (before + 1 + tied_hits) / place_V, 0.0)
    return float(min(gain_V.sum() / total, 1.0))


def micro_average_precision(
    scores: ArrayLike, relevant: ArrayLike, *, num_positives: int | None = None
) -> float | None:
    """Average precision of all (query, video) pairs in one pooled ranking: do scores mean the same for all queries?

    Args:
        scores: [P] one score per pair, of all queries together.
        relevant: [P] bool or 0/1.
        num_positives: as in :func:`average_precision`, over all queries.
    """
    return average_precision(scores, relevant, num_positives=num_positives, query="all pairs pooled")


def mean_with_interval(
    values: Sequence[float] | NDArray[np.floating],
    seed: int = 0,
    *,
    groups: Sequence[Hashable] | None = None,
    num_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Mean of per-query values with its bootstrap percentile interval.

    Args:
        values: [Q] finite; queries without a value are left out by the caller, who reports them.
        seed: of the resampling; the same seed and values give the same interval.
        groups: [Q] what each query belongs to. Given, whole groups are drawn instead of single queries: copies of the
            same source succeed and fail together, and drawing them singly would make the interval too narrow.
        num_resamples: bootstrap draws.
        level: probability mass between the two ends.

    Returns:
        (mean, low, high); with one query (or one group) the interval is the mean itself and says nothing; without any
        value all three are NaN.

    Raises:
        ValueError: a value is not finite, or ``groups`` has another length.
    """
    value_Q = np.asarray(values, dtype=np.float64)
    if value_Q.ndim != 1:
        raise ValueError(f"values have shape {value_Q.shape}; expected [Q]")
    if not np.isfinite(value_Q).all():
        bad = int((~np.isfinite(value_Q)).argmax())
        raise ValueError(f"value {bad} of {len(value_Q)} is not finite; leave such queries out")
    if len(value_Q) == 0:
        return float("nan"), float("nan"), float("nan")
    if groups is None:
        sum_G: NDArray[np.float64] = value_Q
        count_G: NDArray[np.float64] = np.ones(len(value_Q))
    else:
        if len(groups) != len(value_Q):
            raise ValueError(f"{len(value_Q)} values but {len(groups)} groups")
        numbers: dict[Hashable, int] = {}
        group_Q = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
        sum_G = np.bincount(group_Q, weights=value_Q).astype(np.float64)
        count_G = np.bincount(group_Q).astype(np.float64)
    rng = np.random.Generator(np.random.Philox(seed))
    means = []
    rows = max(1, 1_000_000 // len(sum_G))  # resamples drawn at a time: memory stays bounded for any number of queries
    for begin in range(0, num_resamples, rows):
        drawn = rng.integers(0, len(sum_G), (min(rows, num_resamples - begin), len(sum_G)))
        means.append(sum_G[drawn].sum(axis=1) / count_G[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    mean = float(value_Q.mean())
    return mean, min(float(low), mean), max(float(high), mean)
