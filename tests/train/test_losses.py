"""Losses against brute force in float64 and against numbers worked by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reelkin.core.errors import UsageError
from reelkin.train.objective.losses import (
    LOSSES,
    LossSettings,
    Similarities,
    build_loss,
    circle,
    circle_legacy,
    info_nce,
    supcon,
    triplet,
)


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
    "supcon": brute_info_nce,  # what it must be without further positives
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
    exact = loss(Similarities(torch.tensor(p), torch.tensor(n), torch.tensor(valid)))
    assert exact.dtype == torch.float64
    np.testing.assert_allclose(exact.numpy(), expected, rtol=1e-9, atol=1e-12)
    single = loss(Similarities(torch.tensor(p).float(), torch.tensor(n).float(), torch.tensor(valid)))
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
    if name in ("info-nce", "triplet", "supcon"):
        loss = build_loss(LossSettings(loss=name, temperature=None if name == "triplet" else 0.5))
        assert torch.autograd.gradcheck(lambda a, b: loss(Similarities(a, b, valid)), (p, n), eps=1e-7, atol=1e-5)
        return
    loss = build_loss(LossSettings(loss=name, circle_gamma=8.0))
    loss(Similarities(p, n, valid)).sum().backward()
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
    torch.testing.assert_close(circle(Similarities(p, n, valid)), torch.tensor([70.4, 70.4]))
    # As published, an ordinary row has 256 * 1.05 * 0.55 = 147.84 against 76.16, and row 0 weighs the negative like a
    # positive: 5.76 against 256 * 0.65 * (0.6 - 0.75) = -24.96. Nothing is left to learn, though the negative is near.
    assert float(circle_legacy(Similarities(p, n, valid)).abs().max()) < 1e-12
    # The other way round the differences of these logits are the loss.
    swapped = circle_legacy(Similarities(n[:, 0], p[:, None], valid))
    torch.testing.assert_close(swapped, torch.tensor([5.76 + 24.96, 147.84 - 76.16]))


def test_info_nce_by_hand() -> None:
    p, n = torch.tensor([1.0]), torch.tensor([[0.0, 0.0, 0.0]])
    one = info_nce(Similarities(p, n, torch.tensor([[True, True, False]])), temperature=1.0)
    torch.testing.assert_close(one, torch.tensor([math.log((math.e + 2) / math.e)]))


def test_triplet_by_hand() -> None:
    p, n = torch.tensor([0.5]), torch.tensor([[0.4, -1.0, 0.9]])
    seen = Similarities(p, n, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(triplet(seen), torch.tensor([0.05]))


@pytest.mark.parametrize("name", LOSSES)
def test_extremes_stay_finite_in_value_and_gradient(name: str) -> None:
    p = torch.tensor([1.0, -1.0, 1.0, -1.0], requires_grad=True)
    n = torch.tensor([[-1.0] * 3, [1.0] * 3, [1.0] * 3, [-1.0] * 3], requires_grad=True)
    small = {"temperature": 0.001} if name in ("info-nce", "supcon") else {}
    value = build_loss(LossSettings(loss=name, **small))(Similarities(p, n, torch.ones(4, 3, dtype=torch.bool)))
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(p.grad).all() and torch.isfinite(n.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_invalid_negatives_may_hold_anything(name: str) -> None:
    p = torch.tensor([0.5, 0.5], requires_grad=True)
    n = torch.tensor([[0.1, math.nan], [math.inf, math.nan]], requires_grad=True)
    valid = torch.tensor([[True, False], [False, False]])
    further = torch.tensor([[math.nan], [math.inf]], requires_grad=True)
    seen = Similarities(p, n, valid, further, torch.zeros(2, 1, dtype=torch.bool))
    value = build_loss(LossSettings(loss=name))(seen)
    value.sum().backward()
    assert torch.isfinite(value).all() and not value[1].detach().any()
    assert torch.isfinite(p.grad).all() and float(p.grad[1]) == 0
    assert not n.grad[~valid].any()


def test_half_precision_is_widened() -> None:
    seen = Similarities(torch.tensor([0.9]).half(), torch.tensor([[0.1]]).half(), torch.tensor([[True]]))
    assert info_nce(seen).dtype == circle_legacy(seen).dtype == supcon(seen).dtype == torch.float32


def by_khosla(p: float, further: list[float], negatives: list[float], temperature: float) -> float:
    """Their equation 2, term by term: the mean over positives of -log of its share among all candidates."""
    positives = [p, *further]
    everything = math.fsum(math.exp(s / temperature) for s in positives + negatives)
    return math.fsum(-math.log(math.exp(s / temperature) / everything) for s in positives) / len(positives)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), anchors=st.integers(1, 4), further=st.integers(0, 6), density=st.floats(0, 1))
def test_supervised_contrast_equals_its_paper_term_by_term(
    seed: int, anchors: int, further: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    p, n, f = (rng.uniform(-1, 1, shape) for shape in (anchors, (anchors, 5), (anchors, further)))
    valid, counts = rng.uniform(size=n.shape) < density, rng.uniform(size=f.shape) < density
    leaves = [torch.tensor(each, requires_grad=True) for each in (p, n, f)]
    seen = Similarities(leaves[0], leaves[1], torch.tensor(valid), leaves[2], torch.tensor(counts))
    value = supcon(seen, temperature=0.3)
    expected = [
        by_khosla(p[row], f[row][counts[row]].tolist(), n[row][valid[row]].tolist(), 0.3) for row in range(anchors)
    ]
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-9, atol=1e-12)
    value.sum().backward()
    # Its gradient by hand: share of everything, less 1 / |P| for each positive, over the temperature.
    for row in range(anchors):
        positives, negatives = [p[row], *f[row][counts[row]]], n[row][valid[row]].tolist()
        weights = np.exp(np.array(positives + negatives) / 0.3)
        share = weights / weights.sum()
        share[: len(positives)] -= 1 / len(positives)
        found = [float(leaves[0].grad[row]), *leaves[2].grad[row][counts[row]], *leaves[1].grad[row][valid[row]]]
        np.testing.assert_allclose(found, share / 0.3, rtol=1e-8, atol=1e-10)
    assert not leaves[1].grad[~valid].any() and not leaves[2].grad[~counts].any()


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "supcon"])
def test_other_losses_know_one_positive_only(name: str) -> None:
    p, n, valid = torch.tensor([0.3]), torch.tensor([[0.2, 0.4]]), torch.ones(1, 2, dtype=torch.bool)
    loss = build_loss(LossSettings(loss=name))
    more = Similarities(p, n, valid, torch.tensor([[0.9]]), torch.tensor([[True]]))
    assert torch.equal(loss(more), loss(Similarities(p, n, valid)))


def published_circle(logits: torch.Tensor, m: float, gamma: float) -> torch.Tensor:
    """As described, in torch's own terms: labels are all 0, weights and margins are assigned through rows [labels]."""
    labels = torch.zeros(len(logits), dtype=torch.long)
    fixed = logits.detach()
    weight, offset = (fixed + m).clamp_min(0), torch.full_like(logits, m)
    weight[labels], offset[labels] = (-fixed[labels] + 1 + m).clamp_min(0), 1 - m
    return torch.nn.functional.cross_entropy(weight * (logits - offset) * gamma, labels, reduction="none")


@pytest.mark.parametrize("temperature", [1.0, 0.07, 2.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circle_legacy_is_the_published_one_to_the_bit(temperature: float, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(3)
    cosine = (torch.rand(16, 65, generator=rng, dtype=dtype) * 2 - 1).requires_grad_()
    expected = published_circle(cosine / temperature, 0.25, 256.0)
    expected.mean().backward()
    gradient = cosine.grad.clone()
    cosine.grad = None
    loss = build_loss(LossSettings(loss="circle-legacy", temperature=temperature))
    value = loss(Similarities(cosine[:, 0], cosine[:, 1:], torch.ones(16, 64, dtype=torch.bool)))
    value.mean().backward()
    assert torch.equal(value, expected) and torch.equal(cosine.grad, gradient)
    assert float(gradient[0].abs().max()) > 0 or float(gradient[1:].abs().max()) > 0


def test_circle_legacy_in_parts_knows_the_first_row_of_the_whole_batch() -> None:
    rng = torch.Generator().manual_seed(5)
    cosine, valid = torch.rand(6, 9, generator=rng, dtype=torch.float64), torch.ones(6, 8, dtype=torch.bool)
    whole = circle_legacy(Similarities(cosine[:, 0], cosine[:, 1:], valid))
    rows = torch.arange(6)
    parts = [
        circle_legacy(Similarities(cosine[part, 0], cosine[part, 1:], valid[part], rows=rows[part]))
        for part in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=0)
    without = circle_legacy(Similarities(cosine[2:, 0], cosine[2:, 1:], valid[2:]))
    assert not torch.equal(without[0], whole[2]) and torch.equal(without[1:], whole[3:])


def test_each_loss_has_the_temperature_of_its_paper_unless_told() -> None:
    seen = Similarities(torch.tensor([0.3]), torch.tensor([[0.2]]), torch.tensor([[True]]))
    assert torch.equal(build_loss(LossSettings())(seen), info_nce(seen, 0.07))
    assert torch.equal(build_loss(LossSettings(loss="supcon"))(seen), supcon(seen, 0.07))
    assert torch.equal(build_loss(LossSettings(loss="circle-legacy"))(seen), circle_legacy(seen, 1.0))
    assert torch.equal(build_loss(LossSettings(temperature=0.5))(seen), info_nce(seen, 0.5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "margin"}, "choose one of info-nce, circle"),
        ({"temperature": 0.0}, "--temperature is 0"),
        ({"circle_gamma": 0.0}, "--circle-gamma is 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LossSettings(**fields)


def test_shapes_that_do_not_fit_are_refused() -> None:
    p, n, valid = torch.zeros(2), torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"must be \[N\], \[N, K\]"):
        Similarities(p, n[:1], valid)
    with pytest.raises(ValueError, match="further_valid"):
        Similarities(p, n, valid, n)
    with pytest.raises(ValueError, match="further_valid"):
        Similarities(p, n, valid, n[:, :3], valid)
    with pytest.raises(ValueError, match="rows"):
        Similarities(p, n, valid, rows=torch.arange(3))
