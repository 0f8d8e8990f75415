"""The published way of a TCA training step, written from its description at its best; train_speed.py measures it.

torch's own encoder layers, a DataLoader whose workers read each item from the HDF5 file (anchor, positive, negatives:
a dataset each) and pad it to ``padding`` frames, all of a batch's negatives through the network at once, a queue, the
circle loss, Adam. What only cost time there is left out: with a key momentum of 0 the key encoder is the model itself,
items are laid out as the network takes them, Adam is torch's fused one, and the negatives go in as many parts as turn
out fastest on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

MARGIN, GAMMA = 0.25, 256.0


class PublishedItems(Dataset):
    """An item is a pair and drawn negatives: float32 [2 + negatives, padding, dim] and their lengths int64."""

    def __init__(self, path: Path, pairs: list[tuple[str, str]], pool: list[str], negatives: int, padding: int) -> None:
        self.path, self.pairs, self.pool = path, pairs, pool
        self.negatives, self.padding = negatives, padding
        self._file: h5py.File | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        if self._file is None:  # a handle of its own for each worker
            self._file = h5py.File(self.path, "r")
        rng = np.random.default_rng()
        drawn = rng.choice(len(self.pool), self.negatives, replace=False)
        names = [*self.pairs[item], *(self.pool[number] for number in drawn)]
        found = [self._file[name] for name in names]
        padded = np.zeros((len(names), self.padding, found[0].shape[1]), np.float32)
        for row, data in zip(padded, found, strict=True):
            start = int(rng.integers(len(data) - self.padding)) if len(data) > self.padding else 0
            row[: len(data)] = data[start : start + self.padding]
        lengths = [min(len(data), self.padding) for data in found]
        return torch.from_numpy(padded), torch.tensor(lengths)


class Endless(Sampler):
    """A new permutation of the items after another."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self.count).tolist()


def published_batches(items: PublishedItems, batch: int, workers: int, pin: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, read ahead by worker processes."""
    return iter(DataLoader(items, batch, sampler=Endless(len(items)), num_workers=workers, pin_memory=pin))


class PublishedTraining:
    """Encoder, queue and optimizer.

    Args:
        dim: of features and embedding.
        queue_size: a multiple of the negatives of a step.
        dropout: acts on anchors and on keys, as published.
        device: where it all is.
    """

    def __init__(self, dim: int, queue_size: int, dropout: float, lr: float, device: torch.device) -> None:
        layer = nn.TransformerEncoderLayer(dim, 8, dim_feedforward=2048, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).to(device).train()
        self.queue = F.normalize(torch.randn(queue_size, dim, device=device), dim=1)
        self.position, self.device, self.parts = 0, device, 1
        self.optimizer = torch.optim.Adam(self.encoder.parameters(), lr=lr, weight_decay=1e-4, fused=True)

    def embed(self, features: Tensor, lengths: Tensor) -> Tensor:
        """[N, T, D] and int64 [N] to unit rows [N, D]."""
        valid = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
        found = self.encoder(features, src_key_padding_mask=~valid)
        return F.normalize((found * valid[..., None]).sum(1) / lengths[:, None], dim=1)

    @torch.no_grad()
    def keys(self, features: Tensor, lengths: Tensor) -> Tensor:
        """As `embed`, without gradient, in ``parts`` parts."""
        chunks = zip(features.chunk(self.parts), lengths.chunk(self.parts), strict=True)
        return torch.cat([self.embed(*chunk) for chunk in chunks])

    def step(self, features: Tensor, lengths: Tensor) -> float:
        """One update with features [B, 2 + negatives, T, D]; returns the loss."""
        features, lengths = features.to(self.device, non_blocking=True), lengths.to(self.device, non_blocking=True)
        query = self.embed(features[:, 0], lengths[:, 0])
        positive = self.keys(features[:, 1], lengths[:, 1])
        drawn = self.keys(features[:, 2:].flatten(0, 1), lengths[:, 2:].flatten())
        similarity = torch.cat([(query * positive).sum(1, keepdim=True), query @ self.queue.T], 1)
        weight = (similarity.detach() + MARGIN).clamp(min=0)
        offset = torch.full_like(similarity, MARGIN)
        weight[0], offset[0] = (1 + MARGIN - similarity.detach()[0]).clamp(min=0), 1 - MARGIN  # by row, as published
        logits = GAMMA * weight * (similarity - offset)
        loss = F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=self.device))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.queue[self.position : self.position + len(drawn)] = drawn
        self.position = (self.position + len(drawn)) % len(self.queue)
        return float(loss.detach())

    def choose_parts(self, features: Tensor, lengths: Tensor) -> int:
        """Set ``parts`` to what embeds a batch's negatives fastest: all at once, or as many videos at a time."""
        negatives = features[:, 2:].flatten(0, 1).to(self.device), lengths[:, 2:].flatten().to(self.device)
        seconds: dict[int, float] = {}
        for videos in (len(negatives[0]), 64, 16, 4):
            if videos > len(negatives[0]):
                continue
            self.parts = -(-len(negatives[0]) // videos)
            for turn in range(3):  # the first one warms up
                began = time.perf_counter()
                self.keys(*negatives)
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)
                if turn:
                    seconds[self.parts] = min(seconds.get(self.parts, float("inf")), time.perf_counter() - began)
        self.parts = min(seconds, key=lambda parts: seconds[parts])
        return self.parts
