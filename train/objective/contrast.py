"""Contrast with a memory: the task of recipes that tell a video's copy from other videos by queue and batch.

One step: embed this rank's anchors (with gradient) and their positives and drawn negatives (as keys, without); gather
all ranks' keys; compare each anchor with its positive and with every candidate that the masks allow; then remember the
keys. Keys carry no gradient, so ranks' losses are sums over their own anchors and nothing else has to be exchanged.

n anchors of this rank, B of the global batch, K candidates, D dimensions.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...core.config import super_init
from ...core.engine import Engine
from ...core.errors import UsageError
from ..data.batches import Batch, BatchBuilder, Views, prefetched
from ..running.loop import StepLoss
from ..running.validation import Validator
from .losses import Loss, Similarities
from .masks import valid_negatives
from .memory_queue import MemoryQueue
from .mining import MiningSettings, mine, mining_sums
from .momentum import KeyEncoder


@dataclass(frozen=True)
class Keys:
    """Keys [M, D] of videos int64 [M] with groups int64 [M, G]."""

    keys: torch.Tensor
    videos: torch.Tensor
    groups: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class ContrastSettings:
    """What anchors are compared with."""

    queue_size: int = 4096
    """Keys remembered from earlier steps as negatives; 0 for none. Any size goes with any batch."""
    momentum: float = 0.95
    """Of the key encoder, 0 to below 1. 0 shares the trained weights, as published; with a queue of many steps all
    embeddings may then drift together away from remembered ones, which lowers the loss and teaches nothing."""
    batch_negatives: bool = True
    """Other videos of the same global batch are negatives at once, not only from the next step on."""
    queue_positives: bool = True
    """Positives' keys enter the queue; off, only drawn negatives do, as published (then set --negatives-per-anchor)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs the model under autocast; meant for GPUs, not yet run on one."""

    def __post_init__(self) -> None:
        super_init(ContrastSettings, self)
        if not (self.batch_negatives or self.queue_size):
            raise UsageError("--no-batch-negatives with --queue-size 0 leaves no negatives; give one of them")


class ContrastTask:
    """See `loop.Task`.

    Args:
        engine: ranks; the model is moved to its device.
        model: the trained aggregator.
        builder: batches.
        loss: of (positive, negative, valid).
        queue: memory of keys, on the engine's device.
        key_encoder: of the same model.
        settings, mining: choices.
        validator: measures on held-out videos, if there are any.
    """

    def __init__(
        self,
        engine: Engine,
        model: nn.Module,
        builder: BatchBuilder,
        loss: Loss,
        queue: MemoryQueue,
        key_encoder: KeyEncoder,
        settings: ContrastSettings,
        mining: MiningSettings,
        validator: Validator | None = None,
    ) -> None:
        self.engine, self.model, self.builder, self._loss = engine, model, builder, loss
        self.queue, self.key_encoder, self.settings, self.validator = queue, key_encoder, settings, validator
        self.mining = mining
        self._fresh: list[Keys] = []
        self._step = 0

    def batches(self, steps: range) -> Iterator[Batch]:
        """This rank's slices of the global batches, in order."""
        return prefetched(self.builder, steps)

    def losses(self, batch: Batch, parts: int) -> Iterator[StepLoss]:
        """Losses of this rank's anchors; the new keys are kept for `updated`."""
        batch = batch.to(self.engine.device)
        self._step = batch.step
        with self._precision():
            query_nD = self._embed(self.model, batch.anchors)
            positive_nD = self._embed(self.key_encoder, batch.positives)
            drawn_MD = None if batch.negatives is None else self._embed(self.key_encoder, batch.negatives)
        positive_n = (query_nD * positive_nD).sum(1)
        self._fresh = self._gather(positive_nD, batch.positives, drawn_MD, batch.negatives)
        candidates = self._candidates(query_nD)
        negative_nK = query_nD @ candidates.keys.T
        valid_nK = valid_negatives(batch.anchors.groups, candidates.groups)
        mining = self.mining
        mined = mine(positive_n, negative_nK, valid_nK, mining.mining, mining.mined_negatives, mining.mining_margin)
        per_anchor = self._loss(Similarities(positive_n, mined.similarity, mined.valid))
        hardest_n = (
            negative_nK.detach().masked_fill(~valid_nK, -2.0).amax(1) if len(candidates.keys) else positive_n - 1
        )
        sums = mining_sums(negative_nK.detach(), valid_nK, mined)
        sums |= {"positive_sum": float(positive_n.detach().double().sum())}
        sums |= {"first_sum": float((positive_n.detach() > hardest_n).sum())}
        yield StepLoss(per_anchor, sums, lambda: self._blame(batch, per_anchor))

    def updated(self) -> None:
        """Move the key encoder and remember the last batch's keys."""
        self.key_encoder.update()
        for position, fresh in enumerate(self._fresh):
            if position > 0 or self.settings.queue_positives:
                self.queue.enqueue(fresh.keys, fresh.videos, fresh.groups)
        self._fresh = []

    def report(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Log values: see `train` in the README."""
        return {
            "positive_similarity": sums["positive_sum"] / sums["anchors"],
            "negative_similarity": sums["random_sum"] / max(1.0, sums["random_count"]),
            "mined_similarity": sums["mined_sum"] / max(1.0, sums["mined_count"]),
            "negatives_per_anchor": sums["random_count"] / sums["anchors"],
            "positive_first": sums["first_sum"] / sums["anchors"],
            "queue_fill": self.queue.count / max(1, self.queue.size),
            "epoch": round(self.builder.sampler.epoch(self._step + 1), 3),
        }

    def validate(self) -> dict[str, float] | None:
        """mAP on held-out videos."""
        return None if self.validator is None else self.validator(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Key encoder and queue."""
        return {"key_encoder": self.key_encoder.state_dict(), "queue": self.queue.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.key_encoder.load_state_dict(state["key_encoder"])
        self.queue.load_state_dict(state["queue"])

    # -- parts of a step

    def _embed(self, encoder: nn.Module | KeyEncoder, views: Views) -> torch.Tensor:
        dtype = self.queue.keys.dtype
        features, lengths, keys = views.padded()
        out: torch.Tensor = encoder(features.to(dtype), lengths, keys)
        return out.to(dtype)

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self.engine.device.type, dtype=torch.bfloat16)

    def _gather(
        self, positive_nD: torch.Tensor, positives: Views, drawn_MD: torch.Tensor | None, negatives: Views | None
    ) -> list[Keys]:
        """All ranks' positives, then all ranks' drawn negatives: global batch order, whatever the number of ranks."""
        fresh = [self._gather_one(positive_nD, positives, "positive keys")]
        if drawn_MD is not None and negatives is not None:
            fresh.append(self._gather_one(drawn_MD, negatives, "negative keys"))
        return fresh

    def _gather_one(self, keys: torch.Tensor, views: Views, name: str) -> Keys:
        numbers = torch.cat([views.videos[:, None], views.groups], dim=1)
        everyone = self.engine.all_gather(numbers, f"videos of {name}")
        return Keys(self.engine.all_gather(keys.detach(), name), everyone[:, 0], everyone[:, 1:])

    def _candidates(self, like: torch.Tensor) -> Keys:
        """What anchors may be compared with; masks come later, empty slots of the queue included."""
        queue = self.queue
        parts = [Keys(queue.keys.to(like.dtype), queue.videos, queue.groups)]
        if self.settings.batch_negatives:
            parts = self._fresh + parts
        return Keys(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.videos for part in parts]),
            torch.cat([part.groups for part in parts]),
        )

    def _blame(self, batch: Batch, per_anchor: torch.Tensor) -> list[str]:
        """Videos of the batch with features that are not finite; else anchors with such a loss; else all anchors."""
        positives, source = self.builder.positives, self.builder.source
        views = [batch.anchors, batch.positives] + ([batch.negatives] if batch.negatives else [])
        names = [positives.video_ids[video] for each in views for video in dict.fromkeys(each.videos.tolist())]
        bad = [name for name in dict.fromkeys(names) if not np.isfinite(source.features(name)).all()]
        if not bad:
            broken = ~torch.isfinite(per_anchor.detach())
            videos = batch.anchors.videos[broken if bool(broken.any()) else slice(None)]
            bad = [positives.video_ids[video] for video in dict.fromkeys(videos.tolist())]
        return bad
