"""Hard-negative mining: which of an anchor's valid negatives enter the loss.

The published TCA has none: every key of the queue enters, and the loss weighs them (``none``). Here k negatives an
anchor can be chosen instead, part of them mined and the rest drawn at random, with a share that moves over training:
the hardest (``topk``), the hardest that are still less similar than the positive (``semi-hard``: Schroff et al.,
"FaceNet", CVPR 2015), which avoids chasing negatives that are mislabelled, or a draw that favours no distance
(``distance-weighted``: Wu et al., "Sampling Matters in Deep Embedding Learning", ICCV 2017), which avoids both the very
hard, whose gradient is noise, and the many easy ones.

What is drawn depends on the seed, the step, the anchor's place in the global batch and the candidate's place among all
candidates: not on the number of ranks or parts.

N anchors, K candidates, k chosen, D dimensions of the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ...core.config import super_init
from ...core.errors import UsageError
from ...core.seeds import seed_of
from ..models.keyed_dropout import random_words
from ..running.settings import require_positive

Mining = Literal["none", "topk", "semi-hard", "distance-weighted"]

EASY_DISTANCE = 1.4
"""Negatives farther than this (unit vectors; 1.41 is at right angles) are passed over by distance-weighted mining, as
in Wu et al.'s own code: the density is small there too, but nothing is left to learn from them."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """Which negatives enter the loss."""

    mining: Mining = "none"
    """none: all of them, weighed by the loss alone, as published. Else --mined-negatives of them for each anchor:
    topk the most similar, semi-hard the most similar below the positive, distance-weighted a draw that favours no
    distance."""
    mined_negatives: int = 64
    """Negatives of each anchor that enter the loss, mined and random ones together."""
    mined_share_start: float = 1.0
    """Share of these that is mined at the first step, 0 to 1; the rest is drawn from all valid negatives."""
    mined_share_end: float | None = None
    """Share that is mined at the last step, reached linearly. Default: as at the first."""
    mining_from: Literal["all", "background", "components"] = "all"
    """Where mined negatives come from: all; background, videos of which no positive is known; components, videos of
    other groups with positives. An anchor that has none of them in batch and queue takes all."""
    mining_margin: float = 0.2
    """Width of the semi-hard band below the positive, in cosine."""
    mining_cutoff: float = 0.5
    """Distance-weighted: nearer negatives count as at this distance (of unit vectors, above 0 and below 1.4)."""

    def __post_init__(self) -> None:
        super_init(MiningSettings, self)
        if self.mining not in get_args(Mining):
            raise UsageError(f"--mining {self.mining!r} is unknown; choose one of {', '.join(get_args(Mining))}")
        if self.mined_negatives < 1:
            raise UsageError(f"--mined-negatives is {self.mined_negatives}; at least 1 negative per anchor is needed")
        for name in ("mined_share_start", "mined_share_end"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise UsageError(f"--{name.replace('_', '-')} is {share}; a share lies between 0 and 1")
        require_positive(self, "mining_margin")
        if not 0 < self.mining_cutoff < EASY_DISTANCE:
            raise UsageError(f"--mining-cutoff is {self.mining_cutoff}; it must be above 0 and below {EASY_DISTANCE}")


@dataclass(frozen=True)
class MinedNegatives:
    """Negatives that enter the loss, for N anchors.

    Attributes:
        similarity: [N, k], with gradient.
        valid: bool [N, k].
        columns: int64 [N, k], which candidate each is; of the valid ones of a row no two are the same.
        mined: columns up to here were mined (hardest first, where that has a meaning), the others drawn at random.
    """

    similarity: torch.Tensor
    valid: torch.Tensor
    columns: torch.Tensor
    mined: int

    def __repr__(self) -> str:
        return f"MinedNegatives({tuple(self.similarity.shape)}, {int(self.valid.sum())} valid, {self.mined} mined)"


class Miner:
    """Chooses negatives as configured.

    Args:
        settings: choices.
        dim: D.
        seed: of all draws.
        steps: of the whole training, over which the mined share moves.
    """

    def __init__(self, settings: MiningSettings, dim: int, seed: int, steps: int) -> None:
        self.settings, self.dim, self.seed, self.steps = settings, dim, seed, steps

    def share(self, step: int) -> float:
        """The share of the negatives of ``step`` (counted from 0) that is mined: linear from the first to the last."""
        start, end = self.settings.mined_share_start, self.settings.mined_share_end
        if end is None:
            return start
        return start + (end - start) * min(1.0, step / max(1, self.steps - 1))

    @torch.no_grad()
    def _choose(
        self,
        positive: torch.Tensor,
        negative: torch.Tensor,
        valid: torch.Tensor,
        pool: torch.Tensor,
        step: int,
        places: Sequence[int],
    ) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Columns int64 [N, k], their validity, and how many of them were mined."""
        settings = self.settings
        wanted = min(settings.mined_negatives, negative.shape[1])
        to_mine = int(self.share(step) * wanted + 0.5)
        keys = torch.tensor([seed_of(self.seed, "mining", step, place) for place in places], dtype=torch.int64)
        keys = keys.to(negative.device)
        score = self._scores(positive, negative, preferred(valid, pool), keys)
        best, mined_columns = score.topk(to_mine, dim=1)
        mined_valid = best > float("-inf")
        left = valid.clone()
        left.scatter_(1, mined_columns, False)
        # An invalid column that topk had to take must not hide a valid one that random drawing may still take.
        left |= valid & torch.zeros_like(valid).scatter_(1, mined_columns, ~mined_valid)
        drawn = random_words(keys, 1, negative.shape).to(torch.int64).masked_fill(~left, -(1 << 40))
        drawn_best, drawn_columns = drawn.topk(wanted - to_mine, dim=1)
        columns = torch.cat([mined_columns, drawn_columns], dim=1)
        return columns, torch.cat([mined_valid, drawn_best > -(1 << 40)], dim=1), to_mine

    def __call__(
        self,
        positive: torch.Tensor,
        negative: torch.Tensor,
        valid: torch.Tensor,
        pool: torch.Tensor,
        step: int,
        places: Sequence[int],
    ) -> MinedNegatives:
        """Choose negatives by similarity.

        Args:
            positive: [N] similarity to the anchor's positive.
            negative: [N, K] similarities to the candidates.
            valid: bool [N, K], see `masks.valid_negatives`.
            pool: bool [K], candidates of the kind that may be mined.
            step: of training, counted from 0.
            places: the anchors' places in the global batch, which key what is drawn.

        Returns:
            With ``none`` all candidates as they are. Else up to ``mined_negatives`` columns: first the mined, then the
            random ones, none of them twice. An anchor may have fewer mined ones than its share (the semi-hard band may
            be narrow), but with a valid candidate it has at least one negative.
        """
        if self.settings.mining == "none":
            columns = torch.arange(negative.shape[1], device=negative.device).expand(negative.shape)
            return MinedNegatives(negative, valid, columns, 0)
        columns, chosen, mined = self._choose(positive.detach(), negative.detach(), valid, pool, step, places)
        return MinedNegatives(negative.gather(1, columns), chosen, columns, mined)

    def _scores(
        self, positive: torch.Tensor, negative: torch.Tensor, eligible: torch.Tensor, keys: torch.Tensor
    ) -> torch.Tensor:
        """[N, K], of which the largest are mined; minus infinity where not to be mined."""
        score = negative.masked_fill(~eligible, float("-inf"))
        if self.settings.mining == "topk":
            return score
        if self.settings.mining == "semi-hard":
            return semi_hard(positive, score, self.settings.mining_margin)
        weight = distance_log_weight(negative, eligible, self.dim, self.settings.mining_cutoff)
        # The k largest of log-weights plus Gumbel noise are a draw without replacement in proportion to the weights.
        uniform = (random_words(keys, 0, negative.shape).double() + ((1 << 31) + 0.5)) / (1 << 32)
        return weight - (-uniform.log()).log()


def preferred(valid: torch.Tensor, pool: torch.Tensor) -> torch.Tensor:
    """Valid candidates [N, K] that are in ``pool`` [K] (or [N, K]); all valid ones of an anchor that has none there."""
    inside = valid & pool
    return torch.where(inside.any(dim=1, keepdim=True), inside, valid)


def semi_hard(positive: torch.Tensor, score: torch.Tensor, margin: float) -> torch.Tensor:
    """Scores [N, K] with -inf outside positive - margin < score < positive; where that band is empty, at all but the
    single one that is nearest to the positive's similarity, so that no anchor goes without."""
    p = positive[:, None]
    band = (score < p) & (score > p - margin)
    distance = (score - p).abs()  # infinite where not eligible
    nearest = torch.zeros_like(band)
    if score.shape[1]:
        nearest.scatter_(1, distance.argmin(dim=1, keepdim=True), True)
    chosen = torch.where(band.any(dim=1, keepdim=True), band, nearest)
    return score.masked_fill(~chosen, float("-inf"))


def distance_log_weight(negative: torch.Tensor, eligible: torch.Tensor, dim: int, cutoff: float) -> torch.Tensor:
    """Log of the weight, up to a constant, with which each candidate is drawn; float64 [N, K].

    The weight is one over the density of distances d between random points of the unit sphere,
    q(d) ~ d^(D-2) * (1 - d^2 / 4)^((D-3)/2), with d no smaller than ``cutoff``; minus infinity beyond `EASY_DISTANCE`
    (unless an anchor has only such candidates, which then are all alike) and where not ``eligible``.
    """
    squared = (2 - 2 * negative.double()).clamp(min=cutoff**2)
    near = eligible & (squared <= EASY_DISTANCE**2)
    squared = squared.clamp(max=EASY_DISTANCE**2)  # keeps the logarithm of what is masked anyway finite
    weight = -(dim - 2) / 2 * squared.log() - (dim - 3) / 2 * torch.log1p(-squared / 4)
    some = near.any(dim=1, keepdim=True)
    weight = torch.where(some, weight, torch.zeros_like(weight))
    return weight.masked_fill(~torch.where(some, near, eligible), float("-inf"))


@torch.no_grad()
def mining_sums(negative: torch.Tensor, valid: torch.Tensor, chosen: MinedNegatives) -> dict[str, float]:
    """Sums for the log, to be added over ranks.

    ``random_*`` is over all valid candidates: their mean is what negatives drawn at random would have on average.
    Mining is worth its cost as far as the mean of ``mined_*`` lies above it. ``hardest_*`` is over each anchor's most
    similar valid candidate.
    """
    mined, mined_valid = chosen.similarity[:, : chosen.mined], chosen.valid[:, : chosen.mined]
    some = valid.any(dim=1)
    hardest = negative.masked_fill(~valid, -2.0).amax(1)[some] if negative.shape[1] else negative.new_zeros(0)
    return {
        "random_sum": float(negative.masked_fill(~valid, 0.0).sum(dtype=torch.float64)),
        "random_count": float(valid.sum()),
        "mined_sum": float(mined.masked_fill(~mined_valid, 0.0).sum(dtype=torch.float64)),
        "mined_count": float(mined_valid.sum()),
        "entered_count": float(chosen.valid.sum()),
        "hardest_sum": float(hardest.sum(dtype=torch.float64)),
        "hardest_count": float(some.sum()),
    }
