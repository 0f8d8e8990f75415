"""Average precision against hand-worked values, brute-force enumeration of tie orders, and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from reelkin.core.metrics import average_precision, mean_with_interval, micro_average_precision


def ordered_ap(relevant: list[int], num_positives: int | None = None) -> float:
    """Textbook average precision of a list already in rank order."""
    hits, total = 0, 0.0
    for place, is_hit in enumerate(relevant, 1):
        if is_hit:
            hits += 1
            total += hits / place
    return total / (num_positives or hits)


def enumerated_ap(scores: list[int], relevant: list[int], num_positives: int) -> float:
    """Mean of the textbook value over every permutation that is sorted by falling score."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order)):
            values.append(ordered_ap([relevant[i] for i in order], num_positives))
    return float(np.mean(values))


def test_perfect_ranking_scores_one() -> None:
    assert average_precision([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0]) == pytest.approx(1.0)


def test_worst_ranking_of_one_positive_is_one_over_its_place() -> None:
    assert average_precision([4, 3, 2, 1], [0, 0, 0, 1]) == pytest.approx(0.25)


def test_hits_at_places_1_3_5_give_the_hand_worked_value() -> None:
    assert average_precision([5, 4, 3, 2, 1], [1, 0, 1, 0, 1]) == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)


def test_order_of_the_database_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    scores, relevant = rng.integers(0, 4, 30).astype(float), rng.random(30) < 0.3
    expected = average_precision(scores, relevant)
    for _ in range(5):
        order = rng.permutation(30)
        assert average_precision(scores[order], relevant[order]) == pytest.approx(expected, abs=1e-12)


def test_constant_score_is_the_mean_over_all_orders_of_one_positive_in_three() -> None:
    assert average_precision([7, 7, 7], [0, 1, 0]) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=1, max_size=6), st.integers(0, 2))
def test_ties_give_the_mean_over_every_order(pairs: list[tuple[int, int]], missing: int) -> None:
    scores, relevant = [s for s, _ in pairs], [r for _, r in pairs]
    total = sum(relevant) + missing
    value = average_precision(scores, relevant, num_positives=total)
    if total == 0:
        assert value is None
    else:
        assert value == pytest.approx(enumerated_ap(scores, relevant, total), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 200))
def test_untied_scores_agree_with_scikit_learn(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    scores, relevant = rng.permutation(size).astype(float), rng.random(size) < 0.3
    relevant[rng.integers(size)] = True
    assert average_precision(scores, relevant) == pytest.approx(average_precision_score(relevant, scores), abs=1e-12)


def test_positives_missing_from_the_ranking_count_as_never_found() -> None:
    assert average_precision([2, 1], [1, 0], num_positives=4) == pytest.approx(0.25)
    assert average_precision([2, 1], [0, 0], num_positives=1) == 0.0


def test_a_query_without_positives_has_no_value() -> None:
    assert average_precision([3, 2, 1], [0, 0, 0]) is None
    assert average_precision([], []) is None


def test_nan_is_refused_with_the_name_of_the_query() -> None:
    with pytest.raises(ValueError, match=r"query 'night/train'.*position 1"):
        average_precision([0.1, float("nan")], [1, 0], query="night/train")


def test_infinite_scores_rank_at_the_ends_and_tie_with_their_like() -> None:
    inf = float("inf")
    assert average_precision([-inf, inf, 0.0], [0, 1, 0]) == pytest.approx(1.0)
    assert average_precision([-inf, -inf], [1, 0]) == pytest.approx(0.75)


@pytest.mark.parametrize("relevant", [[1, 0, 0], [0.5, 1]])
def test_wrong_shapes_and_graded_relevance_are_refused(relevant: list[float]) -> None:
    with pytest.raises(ValueError):
        average_precision([1, 2], relevant)


def test_fewer_positives_than_found_is_refused() -> None:
    with pytest.raises(ValueError, match="num_positives is 1"):
        average_precision([1, 2], [1, 1], num_positives=1)


def test_pooled_precision_falls_when_scores_mean_different_things_per_query() -> None:
    first, second = ([0.9, 0.8], [1, 0]), ([0.5, 0.4], [1, 0])
    assert average_precision(*first) == average_precision(*second) == 1.0
    assert micro_average_precision(first[0] + second[0], first[1] + second[1]) == pytest.approx((1 + 2 / 3) / 2)


def test_interval_holds_the_mean_and_repeats_with_its_seed() -> None:
    values = np.random.default_rng(0).random(50)
    mean, low, high = mean_with_interval(values, 3)
    assert mean == pytest.approx(values.mean())
    assert low < mean < high
    assert mean_with_interval(values, 3) == (mean, low, high)
    assert mean_with_interval(values, 4) != (mean, low, high)


def test_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(size=400)
    mean, low, high = mean_with_interval(values, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_drawing_groups_widens_the_interval_of_dependent_queries() -> None:
    per_group = np.random.default_rng(0).random(12)
    values, groups = np.repeat(per_group, 10), np.repeat(np.arange(12), 10).tolist()
    single, grouped = mean_with_interval(values, 0), mean_with_interval(values, 0, groups=groups)
    assert grouped[0] == single[0]
    assert grouped[2] - grouped[1] > 2 * (single[2] - single[1])


def test_one_query_and_none_at_all() -> None:
    assert mean_with_interval([0.5]) == (0.5, 0.5, 0.5)
    assert all(np.isnan(mean_with_interval([])))
    with pytest.raises(ValueError, match="not finite"):
        mean_with_interval([0.1, float("nan")])
