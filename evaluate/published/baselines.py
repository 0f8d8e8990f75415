"""What anyone has without training, scored like a model: the figures that a system has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ...core.seeds import generator
from ...train.models.aggregators import MeanPooling, MeanPoolingConfig
from ..methods import untrained
from .embedding_scores import FRAME_METRICS, Metric
from .scores import Videos
from .scoring import Scores


@dataclass(frozen=True)
class Baseline:
    """A trivial solution over features: its name, one sentence, its model and the metric."""

    name: str
    description: str
    model: nn.Module
    metric: Metric


def embedding_baselines(videos: Videos) -> list[Baseline]:
    """Mean pooling (of frame metrics, the features themselves too) and the model without its training, each unless it
    is what is being evaluated."""
    metric: Metric = videos.settings.metric
    pooling = MeanPooling(MeanPoolingConfig(dim=videos.source.dim)).eval()
    found = [Baseline("mean-pool", "mean of the frame features, cosine; no model", pooling, "cosine")]
    if metric in FRAME_METRICS:
        text = f"{metric} of the frame features themselves; no model"
        found.append(Baseline("mean-pool-frame", text, pooling, metric))
    if isinstance(videos.model, MeanPooling):
        return [each for each in found if each.metric != metric]
    text = f"the {videos.aggregator} with the weights that training would start from, {metric}"
    return [*found, Baseline("untrained", text, untrained(videos.model), metric)]


@dataclass(frozen=True)
class Chance:
    """Scores that say nothing, for the pairs that other scores have.

    Attributes:
        of: the other scores.
        tied: the same score for every video, whose expected figure is the mean over all rankings, exactly; else one
            random ranking a query, for protocols in which the order of ties counts.
        seed: of the random rankings.
    """

    of: Scores
    tied: bool
    seed: int = 0

    @property
    def queries(self) -> Sequence[str]:
        """As of the other scores."""
        return self.of.queries

    @property
    def database(self) -> Sequence[str]:
        """As of the other scores."""
        return self.of.database

    def rows(self, queries: Sequence[str]) -> Iterator[NDArray[np.floating]]:
        """A row for each of ``queries``; NaN where the other scores have none."""
        for query, row_V in zip(queries, self.of.rows(queries), strict=True):
            drawn_V = np.zeros(len(row_V)) if self.tied else generator("chance", self.seed, query).random(len(row_V))
            drawn_V[np.isnan(row_V)] = np.nan
            yield drawn_V
