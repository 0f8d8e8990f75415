"""Which negatives enter the loss: the hard ones that were asked for, and draws that follow their distribution."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from reelkin.core.errors import UsageError
from reelkin.train.data.positives import Positives
from reelkin.train.objective.contrast import mining_pool
from reelkin.train.objective.mining import MinedNegatives, Miner, MiningSettings, distance_log_weight, mining_sums

POSITIVE = torch.tensor([0.5, 0.5, 0.1, 0.9])
NEGATIVE = torch.tensor([
    [0.9, 0.45, 0.35, 0.1, 0.48],
    [0.9, 0.8, 0.7, 0.6, 0.55],
    [-0.9, -0.8, -0.5, 0.05, 0.3],
    [0.1, 0.2, 0.3, 0.4, 0.5],
])  # fmt: skip
VALID = torch.tensor([[True] * 5, [True] * 5, [True, True, True, False, True], [False] * 5])
ALL = torch.ones(5, dtype=torch.bool)


def mine(
    mode: str, k: int = 64, pool: torch.Tensor = ALL, step: int = 0, steps: int = 100, **fields: Any
) -> MinedNegatives:
    settings = MiningSettings(mining=mode, mined_negatives=k, **fields)  # type: ignore[arg-type]
    found = Miner(settings, 8, 0, steps)(POSITIVE, NEGATIVE, VALID, pool, step, range(4))
    torch.testing.assert_close(found.similarity, NEGATIVE.gather(1, found.columns))
    for row in range(4):
        columns = found.columns[row][found.valid[row]].tolist()
        assert len(set(columns)) == len(columns) and all(VALID[row, column] for column in columns)
    return found


def chosen(mode: str, k: int, **fields: Any) -> list[list[float]]:
    found = mine(mode, k, **fields)
    return [
        [round(value, 2) for value in row[valid].tolist()]
        for row, valid in zip(found.similarity, found.valid, strict=True)
    ]


def test_topk_keeps_the_hardest_valid_negatives() -> None:
    assert chosen("topk", 2) == [[0.9, 0.48], [0.9, 0.8], [0.3, -0.5], []]
    assert chosen("topk", 99)[2] == [0.3, -0.5, -0.8, -0.9]


def test_semi_hard_keeps_the_hardest_below_the_positive_or_the_nearest() -> None:
    # Row 0 has a band; all of row 1 are above the positive; row 2's only one in the band is not valid.
    assert chosen("semi-hard", 2) == [[0.48, 0.45], [0.55], [0.3], []]
    assert chosen("semi-hard", 9)[0] == [0.48, 0.45, 0.35]


def test_none_keeps_everything_as_it_was() -> None:
    found = mine("none")
    assert torch.equal(found.similarity, NEGATIVE) and torch.equal(found.valid, VALID) and found.mined == 0


def test_only_the_pool_is_mined_unless_an_anchor_has_nothing_there() -> None:
    pool = torch.tensor([False, True, True, True, False])
    assert chosen("topk", 2, pool=pool) == [[0.45, 0.35], [0.8, 0.7], [-0.5, -0.8], []]
    only = torch.tensor([False, False, False, True, False])  # of row 2 not valid
    assert chosen("topk", 1, pool=only) == [[0.1], [0.6], [0.3], []]


def test_the_mined_share_moves_linearly_from_the_first_step_to_the_last() -> None:
    settings = MiningSettings(mining="topk", mined_share_start=0.2, mined_share_end=1.0)
    miner = Miner(settings, 8, 0, steps=5)
    assert [miner.share(step) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert Miner(MiningSettings(mining="topk", mined_share_start=0.3), 8, 0, 5).share(4) == 0.3
    assert Miner(settings, 8, 0, steps=1).share(0) == 0.2


def test_mined_come_first_and_random_ones_fill_up_without_repeating() -> None:
    for step in range(20):
        found = mine("topk", 4, step=step, mined_share_start=0.5)
        assert found.mined == 2 and found.valid.sum(1).tolist() == [4, 4, 4, 0]
        assert found.similarity[0, :2].tolist() == pytest.approx([0.9, 0.48])
    nothing_mined = mine("topk", 3, mined_share_start=0.0)
    assert nothing_mined.mined == 0 and nothing_mined.valid.sum(1).tolist() == [3, 3, 3, 0]


def test_what_lies_outside_the_band_may_still_be_drawn_at_random() -> None:
    # Row 1's band is empty, so that of the two mined columns one holds nothing; the random ones are of the other four.
    seen = set()
    for step in range(40):
        found = mine("semi-hard", 4, step=step, mined_share_start=0.5)
        assert found.valid[1].tolist() == [True, False, True, True]
        seen |= set(found.columns[1, 2:].tolist())
    assert seen == {0, 1, 2, 3}


def test_random_negatives_are_uniform_over_the_valid_ones() -> None:
    counts = np.zeros(5)
    for step in range(1500):
        found = mine("topk", 2, step=step, mined_share_start=0.0)
        for column in found.columns[2][found.valid[2]].tolist():
            counts[column] += 1
    assert counts[3] == 0 and counts.sum() == 3000
    assert stats.chisquare(counts[[0, 1, 2, 4]]).pvalue > 1e-3


def weight_by_hand(similarity: float, dim: int, cutoff: float) -> float:
    """One over the density of distances on the unit sphere, as the paper writes it."""
    distance = max(cutoff, math.sqrt(2 - 2 * similarity))
    return 0.0 if distance > 1.4 else 1 / (distance ** (dim - 2) * (1 - distance**2 / 4) ** ((dim - 3) / 2))


def test_the_weights_are_one_over_the_density_of_distances() -> None:
    similarity = torch.tensor([[0.99, 0.9, 0.6, 0.3, 0.05, 0.01, -0.8]], dtype=torch.float64)
    eligible = torch.tensor([[True, True, True, False, True, True, True]])
    found = distance_log_weight(similarity, eligible, 8, 0.5).exp()[0]
    expected = [weight_by_hand(s, 8, 0.5) for s in similarity[0].tolist()]
    expected[3] = 0.0
    assert expected[5] == expected[6] == 0  # nearly at right angles or beyond: too easy
    assert found.tolist() == pytest.approx(expected)


def test_the_density_is_that_of_random_points() -> None:
    # What the weights undo: distances of random unit vectors, weighted by them, must be spread evenly.
    rng = np.random.default_rng(0)
    points = rng.standard_normal((400_000, 5))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    similarity = torch.tensor(points[:, 0])[None]
    weight = distance_log_weight(similarity, torch.ones_like(similarity, dtype=torch.bool), 5, 0.5).exp()[0].numpy()
    distance = np.sqrt(2 - 2 * points[:, 0])
    found, _ = np.histogram(distance, bins=9, range=(0.5, 1.4), weights=weight)
    np.testing.assert_allclose(found / found.mean(), 1, atol=0.06)


def test_an_anchor_with_only_easy_negatives_draws_any_of_them() -> None:
    similarity = torch.tensor([[-0.5, -0.9, -0.1, 0.0]])
    eligible = torch.tensor([[True, True, True, False]])
    assert distance_log_weight(similarity, eligible, 8, 0.5).exp().tolist() == [[1, 1, 1, 0]]


def draws(k: int, steps: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """What distance-weighted mining drew for one anchor, and the candidates' probabilities of being drawn first."""
    similarity = torch.tensor([[0.9, 0.7, 0.5, 0.2, 0.95, -0.3]])
    valid = torch.tensor([[True, True, True, True, False, True]])
    miner = Miner(MiningSettings(mining="distance-weighted", mined_negatives=k), 4, 7, steps)
    anywhere = torch.ones(6, dtype=torch.bool)
    found = [miner(torch.tensor([0.8]), similarity, valid, anywhere, step, [3]) for step in range(steps)]
    weight = np.array([weight_by_hand(s, 4, 0.5) for s in similarity[0].tolist()])
    weight[4] = 0
    return [tuple(each.columns[0][each.valid[0]].tolist()) for each in found], weight / weight.sum()


def test_distance_weighted_draws_follow_the_weights() -> None:
    found, probability = draws(1, 3000)
    counts = np.bincount([columns[0] for columns in found], minlength=6)
    possible = probability > 0
    assert possible.tolist() == [True, True, True, True, False, False] and counts[~possible].sum() == 0
    assert stats.chisquare(counts[possible], probability[possible] * 3000).pvalue > 1e-3


def test_several_are_drawn_one_after_another_without_putting_back() -> None:
    found, p = draws(2, 3000)
    pairs = list(itertools.combinations(range(4), 2))
    expected = [p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in pairs]
    assert sum(expected) == pytest.approx(1)
    counts = [sum(set(columns) == set(pair) for columns in found) for pair in pairs]
    assert stats.chisquare(counts, np.array(expected) * 3000).pvalue > 1e-3


@pytest.mark.parametrize("mode", ["topk", "semi-hard", "distance-weighted"])
def test_an_anchor_gets_the_same_negatives_in_any_slice_of_its_batch(mode: str) -> None:
    rng = torch.Generator().manual_seed(2)
    positive, negative = torch.rand(6, generator=rng), torch.rand(6, 40, generator=rng) * 2 - 1
    valid, pool = torch.rand(6, 40, generator=rng) < 0.8, torch.rand(40, generator=rng) < 0.5
    miner = Miner(MiningSettings(mining=mode, mined_negatives=9, mined_share_start=0.5), 16, 1, 10)  # type: ignore[arg-type]
    whole = miner(positive, negative, valid, pool, 4, range(10, 16))
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        part = miner(positive[rows], negative[rows], valid[rows], pool, 4, range(10, 16)[rows])
        assert torch.equal(part.columns, whole.columns[rows]) and torch.equal(part.valid, whole.valid[rows])
    for step, seed in ((5, 1), (4, 2)):
        other = Miner(miner.settings, 16, seed, 10)(positive, negative, valid, pool, step, range(10, 16))
        assert not torch.equal(other.columns, whole.columns)


def test_gradient_reaches_chosen_negatives_only() -> None:
    negative = NEGATIVE.clone().requires_grad_()
    miner = Miner(MiningSettings(mining="topk", mined_negatives=1), 8, 0, 1)
    found = miner(POSITIVE, negative, VALID, ALL, 0, range(4))
    found.similarity[found.valid].sum().backward()
    assert negative.grad is not None
    assert negative.grad.nonzero().tolist() == [[0, 0], [1, 0], [2, 4]]


def test_the_logged_sums_compare_mined_with_random_negatives() -> None:
    sums = mining_sums(NEGATIVE, VALID, mine("topk", 3, mined_share_start=0.34))
    assert sums["random_count"] == 14 and sums["mined_count"] == 3 and sums["entered_count"] == 9
    assert sums["random_sum"] == pytest.approx(float(NEGATIVE[VALID].sum()), abs=1e-6)
    assert sums["mined_sum"] == sums["hardest_sum"] == pytest.approx(0.9 + 0.9 + 0.3, abs=1e-6)
    assert sums["hardest_count"] == 3


def test_no_candidates_are_no_negatives() -> None:
    for mode in ("none", "topk", "semi-hard", "distance-weighted"):
        settings = MiningSettings(mining=mode)  # type: ignore[arg-type]
        found = Miner(settings, 8, 0, 1)(POSITIVE, NEGATIVE[:, :0], VALID[:, :0], ALL[:0], 0, range(4))
        assert found.similarity.shape == (4, 0)
        assert mining_sums(NEGATIVE[:, :0], VALID[:, :0], found)["hardest_count"] == 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mining": "hardest"}, "choose one of none, topk, semi-hard, distance-weighted"),
        ({"mining": "topk", "mined_negatives": 0}, "--mined-negatives is 0"),
        ({"mining": "topk", "mined_share_end": 1.5}, "--mined-share-end is 1.5"),
        ({"mining": "semi-hard", "mining_margin": 0.0}, "--mining-margin is 0"),
        ({"mining": "distance-weighted", "mining_cutoff": 1.4}, "--mining-cutoff is 1.4"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MiningSettings(**fields)


def positives_of(groups: list[list[int]], anchors: list[int], members: list[int]) -> Positives:
    return Positives(
        video_ids=[f"v{number}" for number in range(len(groups))],
        groups=np.array(groups),
        anchors=np.array(anchors, dtype=np.int64),
        partners=np.zeros((len(anchors), 2), dtype=np.int64),
        members=np.array(members, dtype=np.int64),
        negatives=np.arange(len(groups)),
        undirected=True,
        summary="",
    )


def test_background_is_what_no_positive_is_known_of() -> None:
    # Videos 0 and 1 are a pair, 2 and 3 another, 4 is nothing known, 5 shows a part of the first pair's group, 6 is a
    # member of its group though of no pair here.
    positives = positives_of([[0, -1], [0, -1], [1, -1], [1, -1], [4, -1], [5, 0], [1, -1]], [0, 2], [1, 3])
    known = [True, True, True, True, False, True, True]
    for kind, expected in (("background", [not each for each in known]), ("components", known), ("all", [True] * 7)):
        found = mining_pool(positives, MiningSettings(mining="topk", mining_from=kind))  # type: ignore[arg-type]
        assert found.tolist() == expected


def test_a_kind_of_which_there_is_none_is_refused() -> None:
    settings = MiningSettings(mining="topk", mining_from="background")
    with pytest.raises(UsageError, match="every video has a positive"):
        mining_pool(positives_of([[0], [0]], [0], [1]), settings)
    settings = MiningSettings(mining="topk", mining_from="components")
    with pytest.raises(UsageError, match="all positives are one group"):
        mining_pool(positives_of([[0], [0], [1]], [0], [1]), settings)
