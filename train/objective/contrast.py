"""Contrast with a memory: the task of recipes that tell a video's copy from other videos by queue and batch.

One step: embed the positives and drawn negatives of this rank's anchors as keys (without gradient); gather all ranks'
keys; then embed the anchors (with gradient), in parts if asked to, and compare each with its positive and with every
candidate that the masks allow; after the update remember the keys. Keys carry no gradient, so ranks' losses are sums
over their own anchors and nothing else has to be exchanged.

n anchors of this rank (or part of them), B of the global batch, K candidates, D dimensions.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from ...core.config import super_init
from ...core.engine import Engine
from ...core.errors import UsageError
from ..data.batches import Batch, BatchBuilder, Views
from ..data.loading import prefetched
from ..data.positives import Positives
from ..data.sampling import rank_slice
from ..running.loop import StepLoss
from ..running.validation import Validator
from .losses import Loss, Similarities
from .masks import same_component, valid_negatives
from .memory_queue import MemoryQueue
from .mining import Miner, MiningSettings, mining_sums
from .momentum import KeyEncoder

log = logging.getLogger("reelkin.train")


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

    frames_at_once: int = 8192
    """Frames, padding included, of keys that pass through the model together: bounds memory, however many negatives
    are drawn."""

    def __post_init__(self) -> None:
        super_init(ContrastSettings, self)
        if self.frames_at_once < 1:
            raise UsageError(f"--frames-at-once is {self.frames_at_once}; it must be at least 1")
        if not (self.batch_negatives or self.queue_size):
            raise UsageError("--no-batch-negatives with --queue-size 0 leaves no negatives; give one of them")


@dataclass(frozen=True)
class Keys:
    """Keys [M, D] of videos int64 [M] with groups int64 [M, G]."""

    keys: torch.Tensor
    videos: torch.Tensor
    groups: torch.Tensor


@dataclass(frozen=True)
class Candidates:
    """What the anchors of a step are compared with: masks come later, empty slots of the queue included.

    Attributes:
        keys: blocks [M, D], K rows together; the first holds the positives of the global batch if these take part.
        videos, groups: int64 [K] and [K, G].
        has_positives: column p is the positive of place p in the global batch, for p < B.
    """

    keys: list[torch.Tensor]
    videos: torch.Tensor
    groups: torch.Tensor
    has_positives: bool


class ContrastTask:
    """See `loop.Task`.

    Args:
        engine: ranks; the model is moved to its device.
        model: the trained aggregator.
        builder: batches.
        loss: of `Similarities`.
        queue: memory of keys, on the engine's device; its dtype is that in which the model computes.
        key_encoder: of the same model.
        settings, mining: choices.
        validator: measures on held-out videos, if there are any.
        steps: of the whole training, for what moves with it.

    Raises:
        UsageError: mining is to be from a kind of videos of which there are none.
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
        *,
        steps: int,
    ) -> None:
        self.engine, self.model, self.builder, self._loss = engine, model, builder, loss
        self.queue, self.key_encoder, self.settings, self.validator = queue, key_encoder, settings, validator
        self.miner = Miner(mining, queue.keys.shape[1], builder.seed, steps)
        self._pool = torch.from_numpy(mining_pool(builder.positives, mining)).to(engine.device)
        self._whole = sees_batch_whole(model)
        self._fresh: list[Keys] = []
        self._sound = True
        self._step = 0

    def batches(self, steps: range) -> Iterator[Batch]:
        """This rank's slices of the global batches, in order."""
        return prefetched(self.builder, steps)

    def losses(self, batch: Batch, parts: int) -> Iterator[StepLoss]:
        """Losses of this rank's anchors; the new keys are kept for `updated`."""
        if parts > 1 and self._whole:
            raise UsageError(f"--accumulation {parts}: a model with batch norm has to see a batch whole; use 1")
        self._step = batch.step
        self._fresh = [self._gather(self._keys(batch.positives), batch.positives, "positive keys")]
        own = self.builder.own
        positive_nD = self._fresh[0].keys[own]
        if batch.negatives is not None:
            self._fresh.append(self._gather(self._keys(batch.negatives), batch.negatives, "negative keys"))
        candidates = self._candidates()
        # A key that is not finite would be a negative from the next step on: all ranks see it now, and stop now.
        self._sound = all(bool(torch.isfinite(each.keys).all()) for each in self._fresh)
        for part in range(parts):
            rows = rank_slice(len(batch.anchors), part, parts)
            if rows.start < rows.stop:
                yield self._part(batch, rows, positive_nD[rows], candidates)

    def updated(self) -> None:
        """Move the key encoder and remember the last batch's keys."""
        self.key_encoder.update()
        for position, fresh in enumerate(self._fresh):
            if position > 0 or self.settings.queue_positives:
                self.queue.enqueue(fresh.keys, fresh.videos, fresh.groups)
        self._fresh = []

    def report(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Log values: see `train` in the README."""
        # A mean over nothing is left out: no negatives are there before the queue has any.
        means = {
            "negative_similarity": ("random_sum", "random_count"),
            "mined_similarity": ("mined_sum", "mined_count"),
            "hardest_similarity": ("hardest_sum", "hardest_count"),
            "positive_first": ("first_sum", "hardest_count"),
        }
        return {
            "positive_similarity": sums["positive_sum"] / sums["anchors"],
            **{name: sums[total] / sums[count] for name, (total, count) in means.items() if sums[count]},
            "negatives_per_anchor": sums["random_count"] / sums["anchors"],
            "negatives_used": sums["entered_count"] / sums["anchors"],
            "queue_fill": self.queue.count / max(1, self.queue.size),
            "epoch": round(self.builder.sampler.epoch(self._step + 1), 3),
        }

    def validate(self) -> dict[str, float] | None:
        """mAP on held-out videos."""
        return None if self.validator is None else self.validator(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Key encoder, queue, and the labels by which the queue's videos and groups are numbered."""
        labels = self.builder.positives.digest()
        return {"key_encoder": self.key_encoder.state_dict(), "queue": self.queue.state_dict(), "labels": labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; of a queue of other labels or size (``--allow-changes``), nothing."""
        self.key_encoder.load_state_dict(state["key_encoder"])
        same_labels = state["labels"] == self.builder.positives.digest()
        if same_labels and len(state["queue"]["keys"]) == self.queue.size:
            self.queue.load_state_dict(state["queue"])
        elif self.engine.is_main:
            why = "queue's size has" if same_labels else "labels have"
            log.warning("the %s changed, so the queue begins empty", why)

    # -- parts of a step

    def _part(self, batch: Batch, rows: slice, positive_nD: torch.Tensor, candidates: Candidates) -> StepLoss:
        """Loss of the anchors ``rows`` of this rank."""
        device = self.engine.device
        query_nD = self._embed(self.model, batch.anchors, rows)
        positive_n = (query_nD * positive_nD).sum(1)
        negative_nK = torch.cat([query_nD @ block.T for block in candidates.keys], dim=1)
        groups = batch.anchors.groups[rows].to(device)
        valid_nK = valid_negatives(groups, candidates.groups)
        same_nK = same_component(groups, candidates.groups)
        numbers = torch.arange(rows.start, rows.stop, device=device)
        places = numbers + self.builder.own.start
        if candidates.has_positives:
            same_nK[torch.arange(len(places), device=device), places] = False  # its own positive is there already
        pool_K = self._pool[candidates.videos.clamp(min=0)]
        chosen = self.miner(positive_n, negative_nK, valid_nK, pool_K, batch.step, places.tolist())
        per_anchor = self._loss(
            Similarities(positive_n, chosen.similarity, chosen.valid, negative_nK, same_nK, rows=numbers)
        )
        if not self._sound:
            per_anchor = per_anchor * torch.nan
        sums = mining_sums(negative_nK.detach(), valid_nK, chosen)
        sums |= {"positive_sum": float(positive_n.detach().double().sum())}
        beaten_n = ((negative_nK.detach() >= positive_n.detach()[:, None]) & valid_nK).any(dim=1)
        sums |= {"first_sum": float((valid_nK.any(dim=1) & ~beaten_n).sum())}
        return StepLoss(per_anchor, sums, lambda: self._blame(batch, rows, query_nD.detach(), per_anchor.detach()))

    def _embed(self, encoder: nn.Module | KeyEncoder, views: Views, rows: torch.Tensor | slice) -> torch.Tensor:
        """Embeddings [n, D] of some views, on the engine's device and in the queue's dtype."""
        dtype, device = self.queue.keys.dtype, self.engine.device
        features, lengths, keys = (each.to(device, non_blocking=True) for each in views.padded(rows))
        # A context for each call: autocast would hand the weights that it cast for keys, without gradient, to anchors.
        with self._precision():
            out: torch.Tensor = encoder(features.to(dtype), lengths, keys)
        # In bfloat16, in which some aggregators end, rows are of unit length to three digits only.
        return F.normalize(out.to(dtype), dim=-1) if out.dtype != dtype else out

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.precision != "bfloat16":
            return contextlib.nullcontext()
        return torch.autocast(self.engine.device.type, dtype=torch.bfloat16)

    def _keys(self, views: Views) -> torch.Tensor:
        """Keys [M, D] of all views, a bounded number of frames at a time; no key depends on the others."""
        if not len(views):
            return self._embed(self.key_encoder, views, slice(None))
        chunks = chunks_by_length(views.lengths, self.settings.frames_at_once)
        keys = torch.cat([self._embed(self.key_encoder, views, rows) for rows in chunks])
        out = torch.empty_like(keys)
        out[torch.cat(chunks).to(keys.device)] = keys
        return out

    def _gather(self, keys: torch.Tensor, views: Views, name: str) -> Keys:
        """All ranks' keys in the order of the global batch, whatever the number of ranks."""
        numbers = torch.cat([views.videos[:, None], views.groups], dim=1).to(keys.device)
        everyone = self.engine.all_gather(numbers, f"videos of {name}")
        return Keys(self.engine.all_gather(keys.detach(), name), everyone[:, 0], everyone[:, 1:])

    def _candidates(self) -> Candidates:
        fresh = self._fresh if self.settings.batch_negatives else []
        return Candidates(
            [each.keys for each in fresh] + [self.queue.keys],
            torch.cat([each.videos for each in fresh] + [self.queue.videos]),
            torch.cat([each.groups for each in fresh] + [self.queue.groups]),
            has_positives=self.settings.batch_negatives,
        )

    def _blame(self, batch: Batch, rows: slice, query_nD: torch.Tensor, per_anchor: torch.Tensor) -> list[str]:
        """This rank's videos whose features are not finite; else those whose embedding is not; else, unless it is
        another rank's key that spoilt the loss, anchors with such a loss, or all anchors."""
        positives, source = self.builder.positives, self.builder.source
        views = [batch.anchors, batch.positives] + ([batch.negatives] if batch.negatives else [])
        names = [positives.video_ids[video] for each in views for video in dict.fromkeys(each.videos.tolist())]
        bad = [name for name in dict.fromkeys(names) if not _finite_as_float32(source.features(name))]
        if bad:
            return bad
        anchors = batch.anchors.videos[rows]
        videos = anchors[~torch.isfinite(query_nD).all(dim=1).cpu()].tolist()
        for fresh, own in zip(self._fresh, views[1:], strict=True):
            begin = self.builder.own.start * (len(own) // max(1, len(batch.anchors)))
            keys = fresh.keys[begin : begin + len(own)]
            videos += own.videos[~torch.isfinite(keys).all(dim=1).cpu()].tolist()
        if not videos and self._sound:
            broken = ~torch.isfinite(per_anchor).cpu()
            videos = anchors[broken if bool(broken.any()) else slice(None)].tolist()
        return [positives.video_ids[video] for video in dict.fromkeys(videos)]


def _finite_as_float32(features: NDArray[np.floating]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.isfinite(np.asarray(features, dtype=np.float32)).all())


def chunks_by_length(lengths: torch.Tensor, frames: int) -> list[torch.Tensor]:
    """Rows in chunks of similar length, longest first, each of at most ``frames`` frames when padded (or one row).

    Args:
        lengths: int64 [N].
        frames: most frames of a chunk, padding included.

    Returns:
        int64 row numbers, every row in one chunk.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    chunks, start = [], 0
    while start < len(order):
        size = max(1, frames // max(1, int(lengths[order[start]])))
        chunks.append(order[start : start + size])
        start += size
    return chunks


def sees_batch_whole(model: nn.Module) -> bool:
    """Whether an embedding depends on the others of its batch (batch norm), so that a batch must not be split."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def mining_pool(positives: Positives, mining: MiningSettings) -> NDArray[np.bool_]:
    """bool [V]: the videos that ``--mining-from`` names.

    Raises:
        UsageError: there are none.
    """
    everything = np.ones(len(positives.video_ids), dtype=np.bool_)
    if mining.mining_from == "all":
        return everything
    items = np.concatenate([positives.anchors, positives.members])
    components = np.unique(positives.groups[items, 0])
    labelled = np.asarray(np.isin(positives.groups, components).any(axis=1), dtype=np.bool_)
    if mining.mining_from == "background" and bool(labelled.all()):
        raise UsageError("--mining-from background: every video has a positive; use --mining-from all or components")
    if mining.mining_from == "components" and len(components) < 2:
        raise UsageError("--mining-from components: all positives are one group; use --mining-from all or background")
    return labelled if mining.mining_from == "components" else ~labelled
