"""TCA's published training step in plain torch, written from a description of the published code; an oracle for tests.

All ranks are played in one process: each computes the loss of its own batch, gradients are averaged over ranks, and the
keys of all ranks enter the queue in rank order. Nothing of the package is used. Where the recipe departs on purpose
from what was published, so does this: the queue starts empty instead of full of random vectors, takes any number of
keys, and no step without gradients comes before the first.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class RankBatch:
    """What one rank sees in a step; each is (features [N, T, D] padded with zeros, lengths [N])."""

    anchors: tuple[torch.Tensor, torch.Tensor]
    positives: tuple[torch.Tensor, torch.Tensor]
    negatives: tuple[torch.Tensor, torch.Tensor]


def video_embeddings(encoder: nn.TransformerEncoder, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[N, D]: the encoder over time first, its outputs past the end as zero, summed, divided by the length, L2."""
    inside = torch.arange(features.shape[1])[None] < lengths[:, None]
    out = encoder(features.transpose(0, 1), src_key_padding_mask=~inside)
    total = (out * inside.T[:, :, None]).sum(dim=0)
    return nn.functional.normalize(total / lengths[:, None], dim=1)


def circle_with_row_fault(similarity: torch.Tensor, margin: float = 0.25, gamma: float = 256.0) -> torch.Tensor:
    """Mean loss of similarities [N, 1 + K], the positive in column 0.

    The labels say which column is the positive: all are 0. They were used to pick rows, so that row 0, once for each
    anchor, gets the positives' weights and margin throughout.
    """
    labels = torch.zeros(len(similarity), dtype=torch.int64)
    weight = (similarity.detach() + margin).clamp(min=0)
    threshold = torch.full_like(similarity, margin)
    weight[labels] = (1 + margin - similarity.detach()).clamp(min=0)[labels]
    threshold[labels] = 1 - margin
    return nn.functional.cross_entropy(gamma * weight * (similarity - threshold), labels)


class PublishedTraining:
    """Model, key encoder, queue, optimizer and schedule.

    Args:
        encoder: the transformer to start from; copied.
        queue_size, temperature, momentum: ``moco_k``, ``moco_t`` and ``moco_m``.
        lr: already multiplied by the number of ranks.
        weight_decay: added to the gradient of all parameters.
        epochs: length of the cosine.
    """

    def __init__(
        self,
        encoder: nn.TransformerEncoder,
        *,
        queue_size: int,
        temperature: float,
        momentum: float,
        lr: float,
        weight_decay: float,
        epochs: int,
    ) -> None:
        self.query = copy.deepcopy(encoder)
        self.key = copy.deepcopy(encoder).requires_grad_(False)
        self.queue: list[torch.Tensor] = []
        self.queue_size, self.temperature, self.momentum = queue_size, temperature, momentum
        self.optimizer = torch.optim.Adam(self.query.parameters(), lr=lr, weight_decay=weight_decay)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, T_max=epochs)

    def step(self, ranks: list[RankBatch]) -> list[float]:
        """One update; the loss of each rank."""
        with torch.no_grad():
            for own, theirs in zip(self.key.parameters(), self.query.parameters(), strict=True):
                own.copy_(self.momentum * own + (1 - self.momentum) * theirs)
        self.optimizer.zero_grad()
        losses, arrived = [], []
        for batch in ranks:
            query = video_embeddings(self.query, *batch.anchors)
            with torch.no_grad():
                positive = video_embeddings(self.key, *batch.positives)
                arrived += list(video_embeddings(self.key, *batch.negatives))
            columns = [(query * positive).sum(dim=1, keepdim=True)]
            if self.queue:
                columns.append(query @ torch.stack(self.queue).T)
            loss = circle_with_row_fault(torch.cat(columns, dim=1) / self.temperature)
            (loss / len(ranks)).backward()
            losses.append(loss.item())
        self.optimizer.step()
        self.queue = (self.queue + arrived)[-self.queue_size :]
        return losses

    def end_epoch(self) -> None:
        """The learning rate goes down once an epoch."""
        self.schedule.step()

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])
