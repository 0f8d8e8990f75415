"""Contrastive losses on cosines: one value per anchor, of its positive, its further positives and its negatives.

Every loss takes `Similarities`, works in float32 or wider, and returns [N]; the mean over the *global* batch is the
caller's. What a mask leaves out has no influence on value or gradient, whatever it holds. An anchor without a valid
negative has no opponent and gets 0 (except with ``supcon``, where further positives are opponents too).

N anchors, K negatives, P further positives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F

from ...core.config import super_init
from ...core.errors import UsageError
from ..running.settings import require_not_negative, require_positive

LossName = Literal["info-nce", "circle", "circle-legacy", "triplet", "supcon"]
LOSSES: tuple[str, ...] = get_args(LossName)

TEMPERATURES = {"info-nce": 0.07, "supcon": 0.07, "circle-legacy": 1.0}
"""The losses that divide by a temperature, with the one they take if none is given."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Which loss, and its constants."""

    loss: LossName = "info-nce"
    """Loss function. circle-legacy is TCA's published one with its fault; supcon takes everything in batch and queue
    that shows the same as the anchor for positives, the others only the anchor's own positive."""
    temperature: float | None = None
    """Similarities are divided by it in info-nce, supcon and circle-legacy. Default: 0.07, and 1 for circle-legacy."""
    circle_margin: float = 0.25
    """Margin m of the circle losses."""
    circle_gamma: float = 256.0
    """Scale of the circle losses."""
    triplet_margin: float = 0.2
    """Margin of the triplet loss, in cosine."""

    def __post_init__(self) -> None:
        super_init(LossSettings, self)
        if self.loss not in LOSSES:
            raise UsageError(f"--loss {self.loss!r} is unknown; choose one of {', '.join(LOSSES)}")
        if self.temperature is not None:
            require_positive(self, "temperature")
        require_positive(self, "circle_gamma")
        for name in ("circle_margin", "triplet_margin"):
            require_not_negative(self, name)


@dataclass(frozen=True)
class Similarities:
    """Cosines of N anchors, with gradient, and which of them count.

    Attributes:
        positive: [N], to each anchor's own positive.
        negative: [N, K], to its negatives.
        valid: bool [N, K], true where the negative counts.
        further: [N, P], to further candidates that show the same as the anchor; None for none.
        further_valid: bool [N, P], true where such a candidate counts; given together with ``further``.
        rows: int64 [N], the anchors' numbers in the whole batch of this process; None counts them from 0.

    Raises:
        ValueError: shapes that do not belong together.
    """

    positive: torch.Tensor
    negative: torch.Tensor
    valid: torch.Tensor
    further: torch.Tensor | None = None
    further_valid: torch.Tensor | None = None
    rows: torch.Tensor | None = None

    def __post_init__(self) -> None:
        positive, negative, valid = self.positive, self.negative, self.valid
        if positive.ndim != 1 or negative.shape != valid.shape or negative.shape[:1] != positive.shape:
            raise ValueError(
                f"positive {tuple(positive.shape)}, negative {tuple(negative.shape)} and valid {tuple(valid.shape)} "
                "must be [N], [N, K] and [N, K]"
            )
        further, counts = self.further, self.further_valid
        if (further is None) != (counts is None) or (
            further is not None
            and counts is not None
            and not (further.shape == counts.shape and further.shape[:1] == positive.shape)
        ):
            raise ValueError("further and further_valid must both be [N, P], or both be left out")
        if self.rows is not None and self.rows.shape != positive.shape:
            raise ValueError(f"rows {tuple(self.rows.shape)} must be [N] as positive {tuple(positive.shape)}")

    def __repr__(self) -> str:
        further = 0 if self.further is None else self.further.shape[1]
        return f"Similarities({tuple(self.negative.shape)} negatives, {further} further candidates)"


Loss = Callable[[Similarities], torch.Tensor]
"""Per-anchor values [N] of `Similarities`."""


def _wide(values: torch.Tensor, valid: torch.Tensor | None = None) -> torch.Tensor:
    """In float32 or wider; what is not valid as 0, which cuts it off from the gradient."""
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    return values if valid is None else values.masked_fill(~valid, 0.0)


def _softmax_loss(positive_logit: torch.Tensor, negative_logit: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """-log(exp(p) / (exp(p) + sum over valid of exp(n))) [N], without overflow and without losing small values."""
    masked = negative_logit.masked_fill(~valid, float("-inf"))
    # softplus(logsumexp(n - p)): exact also where the loss is tiny, and finite where it is huge. A row without valid
    # negatives would be logsumexp of nothing, whose gradient is not a number, hence the detour.
    none = ~valid.any(dim=1)
    excess = (masked - positive_logit[:, None]).masked_fill(none[:, None], 0.0)
    return F.softplus(torch.logsumexp(excess, dim=1)).masked_fill(none, 0.0)


def info_nce(seen: Similarities, temperature: float = 0.07) -> torch.Tensor:
    """Cross entropy of picking the positive among all, with similarities divided by ``temperature``; [N]."""
    negative = _wide(seen.negative, seen.valid)
    return _softmax_loss(_wide(seen.positive) / temperature, negative / temperature, seen.valid)


def circle(seen: Similarities, margin: float = 0.25, gamma: float = 256.0) -> torch.Tensor:
    """Circle loss (Sun et al., CVPR 2020): each similarity is weighted by its distance from its optimum; [N].

    With weights a_p = max(0, 1 + m - s_p) and a_n = max(0, s_n + m), which carry no gradient, the logits are
    gamma * a_p * (s_p - (1 - m)) and gamma * a_n * (s_n - m). For m = 0.25, gamma = 256, s_p = 0.8 and s_n = 0.6 they
    are 5.76 and 76.16.
    """
    positive, negative = _wide(seen.positive), _wide(seen.negative, seen.valid)
    weight_p = (1 + margin - positive.detach()).clamp(min=0)
    weight_n = (negative.detach() + margin).clamp(min=0)
    positive_logit = gamma * weight_p * (positive - (1 - margin))
    return _softmax_loss(positive_logit, gamma * weight_n * (negative - margin), seen.valid)


def circle_legacy(
    seen: Similarities, temperature: float = 1.0, margin: float = 0.25, gamma: float = 256.0
) -> torch.Tensor:
    """The circle loss as TCA's published code computes it, to the bit: weights and margins go by row, not column; [N].

    Similarities are divided by ``temperature`` first (margins mean something only at 1). Row 0 treats its positive and
    all its negatives as positives; every other row treats its positive as a negative, so that it amounts to a softmax
    over gamma * (s^2 - m^2) without a margin. Row 0 is the first anchor of each process's batch, hence this loss,
    unlike all others, depends on the number of ranks. For s_p = 0.8 and s_n = 0.6 the logits of an ordinary row are
    147.84 and 76.16. Kept for comparison with published weights; not recommended.
    """
    similarity = torch.cat([_wide(seen.positive)[:, None], _wide(seen.negative, seen.valid)], dim=1) / temperature
    rows = torch.arange(len(similarity), device=similarity.device) if seen.rows is None else seen.rows
    first = (rows == 0)[:, None]
    # The order of the operations is that of the published code, so that every rounding is too.
    fixed = similarity.detach()
    weight = torch.where(first, 1 - fixed + margin, fixed + margin).clamp(min=0)
    offset = torch.full_like(similarity, margin).masked_fill(first, 1 - margin)
    logit = weight * (similarity - offset) * gamma
    counts = F.pad(seen.valid, (1, 0), value=True)
    return -F.log_softmax(logit.masked_fill(~counts, float("-inf")), dim=1)[:, 0]


def triplet(seen: Similarities, margin: float = 0.2) -> torch.Tensor:
    """Mean over the anchor's valid negatives of max(0, margin + s_n - s_p); [N]. Mine: easy negatives dilute it."""
    excess = margin + _wide(seen.negative, seen.valid) - _wide(seen.positive)[:, None]
    return excess.clamp(min=0).masked_fill(~seen.valid, 0.0).sum(1) / seen.valid.sum(1).clamp(min=1)


def supcon(seen: Similarities, temperature: float = 0.07) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al., NeurIPS 2020, their L_out); [N].

    The mean over the anchor's positives, its own and the further ones, of the cross entropy of picking that one among
    all positives and negatives. Where an anchor has no further positive, this is `info_nce`.
    """
    further = seen.positive.new_zeros(len(seen.positive), 0) if seen.further is None else seen.further
    further_valid = torch.zeros_like(further, dtype=torch.bool) if seen.further_valid is None else seen.further_valid
    positive = torch.cat([_wide(seen.positive)[:, None], _wide(further, further_valid)], dim=1)
    is_positive = F.pad(further_valid, (1, 0), value=True)
    logit = torch.cat([positive, _wide(seen.negative, seen.valid)], dim=1) / temperature
    counts = torch.cat([is_positive, seen.valid], dim=1)
    logit = logit.masked_fill(~counts, float("-inf"))
    # Not log_softmax: of what does not count it makes minus infinity, which no factor 0 takes back.
    chosen = (torch.logsumexp(logit, dim=1, keepdim=True) - logit[:, : positive.shape[1]]).masked_fill(
        ~is_positive, 0.0
    )
    return chosen.sum(1) / is_positive.sum(1)


def build_loss(config: LossSettings) -> Loss:
    """The configured loss as a function of `Similarities`."""
    temperature = config.temperature or TEMPERATURES.get(config.loss, 1.0)
    table: dict[str, Loss] = {
        "info-nce": lambda seen: info_nce(seen, temperature),
        "circle": lambda seen: circle(seen, config.circle_margin, config.circle_gamma),
        "circle-legacy": lambda seen: circle_legacy(seen, temperature, config.circle_margin, config.circle_gamma),
        "triplet": lambda seen: triplet(seen, config.triplet_margin),
        "supcon": lambda seen: supcon(seen, temperature),
    }
    return table[config.loss]
