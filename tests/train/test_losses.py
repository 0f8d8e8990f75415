"""Losses against brute force in float64 and against numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import UsageError
from reelkin.train.objective.losses import LOSSES, LossSettings, build_loss, circle, circle_legacy, info_nce, triplet


def softmax_loss(positive: float, negatives: list[float]) -> float:
    """-log(e^p / (e^p + sum e^n)) with exact big numbers' help: shifted by the largest logit."""
    top = max([positive, *negatives])
    return -(positive - top) + math.log(math.fsum(math.exp(each - top) for each in [positive, *negatives]))


def brute_info_nce(row: int, p: float, negatives: list[float]) -> float:
    return softmax_loss(p / 0.07, [n / 0.07 for n in negatives])


def circle_logit_positive(s: float) -> float:
    return 256 * max(0.0, 1.25 - s) * (s - 0.75)


def circle_logit_negative(s: float) -> float:
    return 256 * max(0.0, s + 0.25) * (s - 0.25)


def brute_circle(row: int, p: float, negatives: list[float]) -> float:
    return softmax_loss(circle_logit_positive(p), [circle_logit_negative(n) for n in negatives])


def brute_legacy(row: int, p: float, negatives: list[float]) -> float:
    logit = circle_logit_positive if row == 0 else circle_logit_negative
    return softmax_loss(logit(p), [logit(n) for n in negatives])


def brute_triplet(row: int, p: float, negatives: list[float]) -> float:
    return sum(max(0.0, 0.2 + n - p) for n in negatives) / max(1, len(negatives))


BRUTE: dict[str, Callable[[int, float, list[float]], float]] = {
    "info-nce": brute_info_nce,
    "circle": brute_circle,
    "circle-legacy": brute_legacy,
    "triplet": brute_triplet,
}


def by_brute_force(name: str, p: np.ndarray, n: np.ndarray, valid: np.ndarray) -> list[float]:
    return [
        BRUTE[name](row, float(p[row]), n[row][valid[row]].tolist()) if valid[row].any() else 0.0
        for row in range(len(p))
    ]


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), anchors=st.integers(1, 5), candidates=st.integers(0, 12), density=st.floats(0, 1))
def test_equals_brute_force(name: str, seed: int, anchors: int, candidates: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    p, n = rng.uniform(-1, 1, anchors), rng.uniform(-1, 1, (anchors, candidates))
    valid = rng.uniform(size=n.shape) < density
    expected = by_brute_force(name, p, n, valid)
    loss = build_loss(LossSettings(loss=name))
    exact = loss(torch.tensor(p), torch.tensor(n), torch.tensor(valid))
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact.numpy(), expected, rtol=1e-9, atol=1e-12)
    single = loss(torch.tensor(p).float(), torch.tensor(n).float(), torch.tensor(valid))
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name: str) -> None:
    rng = np.random.default_rng(4)
    # Away from the hinge and the clamps, where there is no derivative; weights of circle carry no gradient, so its
    # differences are taken of the logits with fixed weights.
    p = torch.tensor(rng.uniform(0.1, 0.6, 3), requires_grad=True)
    n = torch.tensor(rng.uniform(0.0, 0.5, (3, 4)), requires_grad=True)
    valid = torch.tensor(rng.uniform(size=(3, 4)) < 0.7)
    valid[:, 0] = True
    if name in ("info-nce", "triplet"):
        loss = build_loss(LossSettings(loss=name, temperature=0.5))
        assert torch.autograd.gradcheck(lambda a, b: loss(a, b, valid), (p, n), eps=1e-7, atol=1e-5)
        return
    loss = build_loss(LossSettings(loss=name, circle_gamma=8.0))
    loss(p, n, valid).sum().backward()
    assert p.grad is not None and n.grad is not None
    for row in range(3):
        positive_row = name == "circle" or row == 0
        negative_row = name == "circle" or row > 0
        weight_p = 8 * (1.25 - float(p[row].detach())) if positive_row else 8 * (float(p[row].detach()) + 0.25)
        logits = [weight_p * (float(p[row].detach()) - (0.75 if positive_row else 0.25))]
        weights = [weight_p]
        for s in n[row][valid[row]].tolist():
            weight = 8 * (s + 0.25) if negative_row else 8 * (1.25 - s)
            weights.append(weight)
            logits.append(weight * (s - (0.25 if negative_row else 0.75)))
        share = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(float(p.grad[row]), weights[0] * (share[0] - 1), rtol=1e-9)
        np.testing.assert_allclose(n.grad[row][valid[row]].numpy(), np.array(weights[1:]) * share[1:], rtol=1e-9)
    assert not n.grad[~valid].any()


def test_circle_logits_of_the_worked_example() -> None:
    # s_p = 0.8, s_n = 0.6: as intended 256 * 0.45 * 0.05 = 5.76 against 256 * 0.85 * 0.35 = 76.16.
    p, n, valid = torch.tensor([0.8, 0.8]), torch.tensor([[0.6], [0.6]]), torch.ones(2, 1, dtype=torch.bool)
    torch.testing.assert_close(circle(p, n, valid), torch.tensor([70.4, 70.4]))
    # As published, an ordinary row has 256 * 1.05 * 0.55 = 147.84 against 76.16: nothing left to learn.
    legacy = circle_legacy(p, n, valid)
    torch.testing.assert_close(legacy[1], torch.tensor(math.exp(76.16 - 147.84)), rtol=1e-3, atol=0)
    # Its row 0 weighs the negative like a positive: 256 * 0.65 * (0.6 - 0.75) = -24.96.
    torch.testing.assert_close(legacy[0], torch.tensor(math.exp(-24.96 - 5.76)), rtol=1e-3, atol=0)


def test_info_nce_by_hand() -> None:
    p, n = torch.tensor([1.0]), torch.tensor([[0.0, 0.0, 0.0]])
    one = info_nce(p, n, torch.tensor([[True, True, False]]), temperature=1.0)
    torch.testing.assert_close(one, torch.tensor([math.log((math.e + 2) / math.e)]))


def test_triplet_by_hand() -> None:
    p, n = torch.tensor([0.5]), torch.tensor([[0.4, -1.0, 0.9]])
    torch.testing.assert_close(triplet(p, n, torch.tensor([[True, True, False]])), torch.tensor([0.05]))


@pytest.mark.parametrize("name", LOSSES)
def test_extremes_stay_finite_in_value_and_gradient(name: str) -> None:
    p = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)
    n = torch.tensor([[-1.0] * 3, [1.0] * 3, [1.0] * 3, [-1.0] * 3], requires_grad=True)
    value = build_loss(LossSettings(loss=name, temperature=0.001))(p, n, torch.ones(4, 3, dtype=torch.bool))
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(p.grad).all() and torch.isfinite(n.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_negatives_may_hold_anything(name: str) -> None:
    p = torch.tensor([0.5, 0.5], requires_grad=True)
    n = torch.tensor([[0.1, math.nan], [math.inf, math.nan]], requires_grad=True)
    valid = torch.tensor([[True, False], [False, False]])
    value = build_loss(LossSettings(loss=name))(p, n, valid)
    value.sum().backward()
    assert torch.isfinite(value).all() and not value[1].detach().any()
    assert torch.isfinite(p.grad).all() and float(p.grad[1]) == 0
    assert not n.grad[~valid].any()


def test_half_precision_is_widened() -> None:
    value = info_nce(torch.tensor([0.9]).half(), torch.tensor([[0.1]]).half(), torch.tensor([[True]]))
    assert value.dtype == torch.float32


def test_shapes_that_do_not_fit_and_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[N\], \[N, K\]"):
        info_nce(torch.zeros(2), torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="choose one of info-nce, circle"):
        build_loss(LossSettings(loss="margin"))
    with pytest.raises(UsageError, match="--temperature is 0"):
        build_loss(LossSettings(temperature=0.0))
