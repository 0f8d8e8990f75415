"""Hard-negative mining: which of an anchor's valid negatives enter the loss.

The published TCA has none: every key of the queue enters, and the loss weighs them. Here the k hardest can be kept
(``topk``), or the k hardest that are still less similar than the positive (``semi-hard``: Schroff et al., "FaceNet",
CVPR 2015), which avoids chasing negatives that are mislabelled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ...core.errors import UsageError

Mining = Literal["none", "topk", "semi-hard"]


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Which negatives enter the loss."""

    mining: Mining = "none"
    """All of them, the k most similar, or the k most similar below the positive."""
    mined_negatives: int = 64
    """k of the mining."""
    mining_margin: float = 0.2
    """Width of the semi-hard band, in cosine."""


@dataclass(frozen=True)
class MinedNegatives:
    """Negatives that enter the loss, for N anchors.

    Attributes:
        similarity: [N, k], with gradient; hardest first when mined.
        valid: bool [N, k].
        columns: int64 [N, k], which candidate each is.
    """

    similarity: torch.Tensor
    valid: torch.Tensor
    columns: torch.Tensor

    def __repr__(self) -> str:
        return f"MinedNegatives({tuple(self.similarity.shape)}, {int(self.valid.sum())} valid)"


def mine(
    positive: torch.Tensor,
    negative: torch.Tensor,
    valid: torch.Tensor,
    mode: Mining = "none",
    k: int = 64,
    margin: float = 0.2,
) -> MinedNegatives:
    """Choose negatives by similarity.

    Args:
        positive: [N] similarity to the positive.
        negative: [N, K] similarities to the candidates.
        valid: bool [N, K].
        mode: ``none`` keeps all; ``topk`` the k most similar; ``semi-hard`` the k most similar among those with
            positive - margin < similarity < positive, or, where an anchor has none, the single one that is nearest to
            the positive's similarity, so that no anchor goes without.
        k: most negatives kept per anchor.
        margin: width of the semi-hard band, in cosine.

    Raises:
        UsageError: unknown mode, or k below 1.
    """
    if mode == "none":
        columns = torch.arange(negative.shape[1], device=negative.device).expand(negative.shape)
        return MinedNegatives(negative, valid, columns)
    if k < 1:
        raise UsageError(f"--mined-negatives is {k}; at least 1 negative per anchor is needed")
    with torch.no_grad():
        score = negative.detach().masked_fill(~valid, float("-inf"))
        if mode == "semi-hard":
            score = _semi_hard_score(positive.detach(), score, margin)
        elif mode != "topk":
            raise UsageError(f"--mining {mode!r} is unknown; choose none, topk or semi-hard")
        best, columns = score.topk(min(k, score.shape[1]), dim=1)
    return MinedNegatives(negative.gather(1, columns), best > float("-inf"), columns)


def _semi_hard_score(positive: torch.Tensor, score: torch.Tensor, margin: float) -> torch.Tensor:
    """Scores [N, K] with -inf outside the band; where the band is empty, at all but the nearest to the positive."""
    p = positive[:, None]
    band = (score < p) & (score > p - margin)
    distance = (score - p).abs()  # infinite where not valid
    nearest = torch.zeros_like(band)
    if score.shape[1]:
        nearest.scatter_(1, distance.argmin(dim=1, keepdim=True), True)
    chosen = torch.where(band.any(dim=1, keepdim=True), band, nearest)
    return score.masked_fill(~chosen, float("-inf"))


@torch.no_grad()
def mining_sums(negative: torch.Tensor, valid: torch.Tensor, mined: MinedNegatives) -> dict[str, float]:
    """Sums for the log, to be added over ranks.

    ``random_*`` is over all valid candidates: their mean is what negatives drawn at random would have on average.
    Mining is worth its cost as far as the mined mean lies above it.
    """
    return {
        "random_sum": float(negative.double().masked_fill(~valid, 0.0).sum()),
        "random_count": float(valid.sum()),
        "mined_sum": float(mined.similarity.double().masked_fill(~mined.valid, 0.0).sum()),
        "mined_count": float(mined.valid.sum()),
    }
