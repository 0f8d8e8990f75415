"""Average precision from places, and pooled with weights, against sums, enumeration and lists written out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from reelkin.core.metrics import average_precision as expected_average_precision
from reelkin.evaluate.published import pooling
from reelkin.evaluate.published.averages import (
    expected_gains,
    harmonic_difference,
    interpolated_precision,
    threshold_gains,
    trapezoid_gains,
)
from reelkin.evaluate.published.measures import Average
from reelkin.evaluate.published.pooling import Pool, draw_weights
from reelkin.evaluate.published.ranking import Ranked, average_precision, positive_groups

from .brute import ordered_precision_sum, rising_reversed


@pytest.mark.parametrize("before", [0, 1, 7, 254, 255, 256, 257, 1000, 10**7])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 254, 256, 5000])
def test_harmonic_difference_is_the_sum_to_double_precision(before: int, size: int) -> None:
    terms = 1 / (before + np.arange(1, size + 1, dtype=np.longdouble))
    found = harmonic_difference(np.array([float(before)]), np.array([float(size)]))
    assert found[0] == pytest.approx(float(terms.sum()), rel=1e-13, abs=0)


def test_a_group_gains_the_mean_over_all_its_orders() -> None:
    for before, earlier, hits, size in itertools.product((0, 3, 300), (0, 2), range(1, 5), range(1, 6)):
        if hits > size or earlier > before:
            continue
        sums = [
            sum((earlier + n) / (before + place) for n, place in enumerate(places, 1))
            for places in itertools.combinations(range(1, size + 1), hits)
        ]
        arrays = [np.array([float(value)]) for value in (before, size, hits)]
        assert expected_gains(*arrays, earlier)[0] == pytest.approx(np.mean(sums), rel=1e-12)


def test_groups_without_videos_or_hits_gain_nothing() -> None:
    gains = expected_gains(np.array([0.0, 0, 4]), np.array([0.0, 4, 2]), np.array([0.0, 0, 1]))
    assert gains.tolist() == pytest.approx([0, 0, (1 / 5 + 1 / 6) / 2])


def test_trapezoids_of_hits_at_places_1_3_5_give_the_hand_worked_value() -> None:
    # (1 + 1)/2, (1/2 + 2/3)/2, (2/4 + 3/5)/2, over 3
    hits = trapezoid_gains(np.array([0.0, 2, 4]))
    assert hits.sum() / 3 == pytest.approx((1 + (1 / 2 + 2 / 3) / 2 + (2 / 4 + 3 / 5) / 2) / 3)
    # the form the figure is published with: 0.372 for hits after 1, 3 and 5 others
    assert trapezoid_gains(np.array([1.0, 3, 5])).sum() / 3 == pytest.approx(0.372, abs=5e-4)


def test_thresholds_count_tied_positives_with_the_precision_after_them() -> None:
    gains = threshold_gains(np.array([0.0, 3]), np.array([3.0, 1]), np.array([2.0, 1]))
    assert gains.tolist() == pytest.approx([2 * 2 / 3, 3 / 4])


def test_interpolated_precision_is_the_best_one_further_down() -> None:
    # hits at places 2 and 3: precision 1/2 at recall 1/3, 2/3 at 2/3; the third positive is never found
    ones = np.ones(2)
    levels = np.array([0, 1 / 3, 0.5, 2 / 3, 0.7, 1])
    found = interpolated_precision(np.array([1.0, 2]), ones, ones, 3, levels)
    assert found.tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 2 / 3, 0, 0])
    assert interpolated_precision(ones[:0], ones[:0], ones[:0], 3, levels).tolist() == [0] * 6


def test_one_ranking_agrees_with_the_plain_metric_at_any_size() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        size = int(rng.integers(1, 3000))
        scores = (rng.integers(0, rng.choice([1, 3, 100, 10**6]), size) / 3).astype(np.float32)
        relevant = rng.random(size) < rng.choice([0.01, 0.5])
        keep = rng.random(size) < 0.8
        scores[rng.random(size) < 0.1] = np.nan
        ranked = Ranked(scores, keep)
        shown = keep & ~np.isnan(scores)
        positives = np.flatnonzero(relevant & shown)
        if len(positives):
            groups = positive_groups(ranked, positives, Average.EXPECTED)
            expected = expected_average_precision(scores[shown], relevant[shown])
            assert average_precision(groups, len(positives), Average.EXPECTED) == pytest.approx(expected, rel=1e-12)
        assert ranked.num_unscored == int((keep & np.isnan(scores)).sum())


@pytest.mark.parametrize("last_first", [False, True])
def test_places_of_tied_videos_follow_the_columns_or_their_reverse(last_first: bool) -> None:
    rng = np.random.default_rng(5)
    scores = rng.integers(0, 4, 50).astype(np.float32)
    keep = rng.random(50) < 0.7
    columns = np.flatnonzero(keep)
    order = sorted(columns[::-1] if last_first else columns, key=lambda column: -scores[column])
    found = Ranked(scores, keep).places(columns, last_first=last_first)
    assert [order.index(column) for column in columns] == found.tolist()


def test_counts_are_the_same_for_few_and_for_many_thresholds() -> None:
    rng = np.random.default_rng(2)
    for size in (1, 3, 12, 200):
        ranked = Ranked(rng.integers(0, 9, 12).astype(np.float32), rng.random(12) < 0.8)
        falling = np.sort(rng.integers(-1, 11, size).astype(np.float32))[::-1]
        rows = ranked.row_V[ranked.mask_V]
        above, upto = ranked.counts(falling)
        assert above.tolist() == [int((rows > score).sum()) for score in falling]
        assert upto.tolist() == [int((rows >= score).sum()) for score in falling]


def rankings(rng: np.random.Generator, levels: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    sizes = rng.integers(1, 15, 6)
    scores = [rng.integers(0, levels, size).astype(np.float32) for size in sizes]
    return scores, [rng.random(size) < 0.4 for size in sizes]


def pooled(pool: Pool, scores: list[np.ndarray], relevant: list[np.ndarray], missing: int) -> Pool:
    ranked = [Ranked(row, np.ones(len(row), bool)) for row in scores]
    positives = [np.flatnonzero(flags) for flags in relevant]
    for n in range(len(scores)):
        pool.collect(n, ranked[n], positives[n], len(positives[n]) + missing)
    for _ in range(pool.num_walks):
        for n in range(len(scores)):
            pool.count(n, ranked[n], positives[n])
        pool.finish()
    return pool


@pytest.mark.parametrize("small_memory", [False, True])
@pytest.mark.parametrize("average", [Average.EXPECTED, Average.LAST_FIRST])
def test_each_resample_equals_a_pool_with_the_drawn_queries_repeated(
    average: Average, small_memory: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small_memory:  # several walks, several parts
        monkeypatch.setattr(pooling, "MAX_COUNTS", 20)
        monkeypatch.setattr(pooling, "MAX_WEIGHTED", 30)
    for seed in range(25):
        rng = np.random.default_rng(seed)
        scores, relevant = rankings(rng, int(rng.choice([2, 6, 1000])))
        missing = int(rng.integers(0, 2))
        pool = pooled(Pool(average, draw_weights(len(scores), 12, seed)), scores, relevant, missing)
        assert small_memory is False or pool.num_walks > 1 or len(pool.thresholds.scores_G) <= 3
        for weights, value in zip(pool.weights_NQ, pool.values_N, strict=True):
            drawn = [n for n, times in enumerate(weights) for _ in range(int(times))]
            pairs = [(float(s), bool(r)) for n in drawn for s, r in zip(scores[n], relevant[n], strict=True)]
            total = sum(relevant[n].sum() + missing for n in drawn)
            if total == 0:
                assert np.isnan(value)
            elif average is Average.EXPECTED:
                expected = expected_average_precision(*zip(*pairs, strict=True), num_positives=total)
                assert value == pytest.approx(expected, abs=1e-12)
            elif (weights == 1).all():
                assert value == pytest.approx(ordered_precision_sum(rising_reversed(pairs)) / total, abs=1e-12)
            else:
                assert value == pytest.approx(repeated_in_place(scores, relevant, weights) / total, abs=1e-12)


def repeated_in_place(scores: list[np.ndarray], relevant: list[np.ndarray], weights: np.ndarray) -> float:
    """The sum of precisions when each pair of a query stands as often as it was drawn, one after the other."""
    pairs = [
        (float(s), bool(r), int(times))
        for row, flags, times in zip(scores, relevant, weights, strict=True)
        for s, r in zip(row, flags, strict=True)
    ]
    order = sorted(pairs, key=lambda pair: pair[0])[::-1]
    return ordered_precision_sum(hit for _, hit, times in order for _ in range(times))


def test_resamples_draw_as_many_queries_as_there_are_and_repeat_with_the_seed() -> None:
    weights = draw_weights(40, 200, 3)
    assert (weights[0] == 1).all() and (weights.sum(axis=1) == 40).all()
    assert np.array_equal(weights, draw_weights(40, 200, 3))
    assert not np.array_equal(weights, draw_weights(40, 200, 4))
    assert weights[1:].mean(axis=0) == pytest.approx(np.ones(40), abs=0.4)


def test_the_pooled_curve_ends_at_the_share_of_positives_found() -> None:
    pool = Pool(Average.EXPECTED, draw_weights(2, 0, 0))
    pooled(pool, [np.array([3.0, 1.0]), np.array([2.0, 1.0])], [np.array([True, False]), np.array([False, True])], 1)
    groups, scores = pool.curve
    assert scores.tolist() == [3.0, 1.0]
    assert (groups.before_G.tolist(), groups.size_G.tolist(), groups.hits_G.tolist()) == ([0, 2], [1, 2], [1, 1])


def test_only_two_kinds_can_be_pooled() -> None:
    with pytest.raises(ValueError, match="trapezoid has no pooled form"):
        Pool(Average.TRAPEZOID, draw_weights(2, 0, 0))
