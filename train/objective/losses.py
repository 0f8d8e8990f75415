"""Contrastive losses on similarities: one positive and K masked negatives per anchor, one loss value per anchor.

All take ``positive`` [N] and ``negative`` [N, K] cosines and ``valid`` bool [N, K] (true where the negative counts),
work in float32 or wider, and return [N]; the mean over the *global* batch is the caller's. A negative that is not valid
has no influence on value or gradient, whatever it holds. An anchor without a valid negative has no opponent and gets 0.

N anchors, K negatives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from ...core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Which loss, and its constants."""

    loss: Literal["info-nce", "circle", "circle-legacy", "triplet"] = "info-nce"
    """Loss function."""
    temperature: float = 0.07
    """Similarities are divided by it in info-nce."""
    circle_margin: float = 0.25
    """Margin m of the circle losses."""
    circle_gamma: float = 256.0
    """Scale of the circle losses."""
    triplet_margin: float = 0.2
    """Margin of the triplet loss, in cosine."""


def _prepared(positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both in float32 or wider; invalid negatives as 0, which cuts them off from the gradient."""
    if positive.ndim != 1 or negative.shape != valid.shape or negative.shape[:1] != positive.shape:
        raise ValueError(
            f"positive {tuple(positive.shape)}, negative {tuple(negative.shape)} and valid {tuple(valid.shape)} "
            "must be [N], [N, K] and [N, K]"
        )
    dtype = torch.promote_types(positive.dtype, torch.float32)
    return positive.to(dtype), negative.to(dtype).masked_fill(~valid, 0.0)


def _softmax_loss(positive_logit: torch.Tensor, negative_logit: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """-log(exp(p) / (exp(p) + sum over valid of exp(n))) [N], without overflow and without losing small values."""
    masked = negative_logit.masked_fill(~valid, float("-inf"))
    # softplus(logsumexp(n - p)): exact also where the loss is tiny, and finite where it is huge. A row without valid
    # negatives would be logsumexp of nothing, whose gradient is not a number, hence the detour.
    none = ~valid.any(dim=1)
    excess = (masked - positive_logit[:, None]).masked_fill(none[:, None], 0.0)
    return F.softplus(torch.logsumexp(excess, dim=1)).masked_fill(none, 0.0)


def info_nce(
    positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor, temperature: float = 0.07
) -> torch.Tensor:
    """Cross entropy of picking the positive among all, with similarities divided by ``temperature``; [N]."""
    positive, negative = _prepared(positive, negative, valid)
    return _softmax_loss(positive / temperature, negative / temperature, valid)


def circle(
    positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor, margin: float = 0.25, gamma: float = 256.0
) -> torch.Tensor:
    """Circle loss (Sun et al., CVPR 2020): each similarity is weighted by its distance from its optimum; [N].

    With weights a_p = max(0, 1 + m - s_p) and a_n = max(0, s_n + m), which carry no gradient, the logits are
    gamma * a_p * (s_p - (1 - m)) and gamma * a_n * (s_n - m). For m = 0.25, gamma = 256, s_p = 0.8 and s_n = 0.6 they
    are 5.76 and 76.16.
    """
    positive, negative = _prepared(positive, negative, valid)
    weight_p = (1 + margin - positive.detach()).clamp(min=0)
    weight_n = (negative.detach() + margin).clamp(min=0)
    return _softmax_loss(gamma * weight_p * (positive - (1 - margin)), gamma * weight_n * (negative - margin), valid)


def circle_legacy(
    positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor, margin: float = 0.25, gamma: float = 256.0
) -> torch.Tensor:
    """The circle loss as TCA's published code computes it: weights and margins go by row instead of by column; [N].

    Row 0 treats its positive and all its negatives as positives; every other row treats its positive as a negative, so
    that it amounts to a softmax over gamma * (s^2 - m^2) without a margin. Row 0 is the first anchor of each process's
    batch, hence this loss, unlike all others, depends on the number of ranks. For s_p = 0.8 and s_n = 0.6 the logits of
    an ordinary row are 147.84 and 76.16. Kept for comparison with published weights; not recommended.
    """
    positive, negative = _prepared(positive, negative, valid)
    similarity = torch.cat([positive[:, None], negative], dim=1)
    weight = (similarity.detach() + margin).clamp(min=0)
    offset = torch.full_like(similarity, margin)
    if len(similarity):
        weight[0] = (1 + margin - similarity.detach()[0]).clamp(min=0)
        offset[0] = 1 - margin
    logit = gamma * weight * (similarity - offset)
    return _softmax_loss(logit[:, 0], logit[:, 1:], valid)


def triplet(positive: torch.Tensor, negative: torch.Tensor, valid: torch.Tensor, margin: float = 0.2) -> torch.Tensor:
    """Mean over the anchor's valid negatives of max(0, margin + s_n - s_p); [N]. Mine: easy negatives dilute it."""
    positive, negative = _prepared(positive, negative, valid)
    hinge = (margin + negative - positive[:, None]).clamp(min=0).masked_fill(~valid, 0.0)
    return hinge.sum(1) / valid.sum(1).clamp(min=1)


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
LOSSES = ("info-nce", "circle", "circle-legacy", "triplet")


def build_loss(config: LossSettings) -> Loss:
    """The configured loss as a function of (positive, negative, valid).

    Raises:
        UsageError: an unknown name, or a constant out of range.
    """
    for name in ("temperature", "circle_gamma"):
        if getattr(config, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(config, name)}; it must be above 0")
    if config.loss == "info-nce":
        return lambda p, n, valid: info_nce(p, n, valid, config.temperature)
    if config.loss == "circle":
        return lambda p, n, valid: circle(p, n, valid, config.circle_margin, config.circle_gamma)
    if config.loss == "circle-legacy":
        return lambda p, n, valid: circle_legacy(p, n, valid, config.circle_margin, config.circle_gamma)
    if config.loss == "triplet":
        return lambda p, n, valid: triplet(p, n, valid, config.triplet_margin)
    raise UsageError(f"--loss {config.loss!r} is unknown; choose one of {', '.join(LOSSES)}")
