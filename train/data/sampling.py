"""Which items make up the global batch of a step: a function of (seed, epoch, step) and nothing else.

The items of all epochs form one endless stream, each epoch a permutation of its own; step s takes the B items from
position s * B on. No item is dropped, however B divides the epoch, unless that is asked for. A rank's share is a slice
of the global batch, so that the number of ranks changes nothing about what is trained on.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...core.config import super_init
from ...core.errors import UsageError
from ...core.seeds import generator


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How epochs are cut into batches."""

    drop_last: bool = False
    """An epoch is as many whole batches as it has, and leaves the rest out, as published. Off, batches go on from one
    epoch into the next and every item is visited equally often."""

    def __post_init__(self) -> None:
        super_init(SamplingSettings, self)


class GlobalSampler:
    """Items of the global batches.

    Args:
        num_items: I, items of an epoch.
        batch_size: B, items of a global batch (all ranks together).
        seed: of the permutations.
        drop_last: an epoch is floor(I / B) batches, each epoch of a new permutation.

    Attributes:
        epoch_items: items that an epoch visits: I, or with ``drop_last`` as many as fill whole batches.

    Raises:
        UsageError: there are no items, or with ``drop_last`` fewer than a batch.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int, *, drop_last: bool = False) -> None:
        if num_items < 1 or batch_size < 1:
            raise UsageError(f"a batch of {batch_size} out of {num_items} items; both must be at least 1")
        if drop_last and num_items < batch_size:
            raise UsageError(
                f"an epoch of {num_items} items does not fill one batch of {batch_size}, and --drop-last leaves out "
                f"what does not: lower the batch size to {num_items} or less over all ranks, or (recipe tca) give "
                "--no-drop-last"
            )
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.epoch_items = num_items // batch_size * batch_size if drop_last else num_items
        self._permutation = functools.lru_cache(maxsize=4)(self._make_permutation)

    def _make_permutation(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, "permutation", epoch).permutation(self.num_items)

    def items(self, step: int) -> NDArray[np.int64]:
        """int64 [B]: the items of global batch ``step`` (counted from 0)."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.epoch_items
        drawn = [
            self._permutation(int(epoch))[position % self.epoch_items]
            for epoch, position in zip(epochs, positions, strict=True)
        ]
        return np.array(drawn, dtype=np.int64)

    def epoch(self, step: int) -> float:
        """Epochs done before ``step``."""
        return step * self.batch_size / self.epoch_items

    def steps_of(self, epochs: float) -> int:
        """Steps that make ``epochs`` epochs, rounded up."""
        return max(1, int(np.ceil(epochs * self.epoch_items / self.batch_size - 1e-9)))


def rank_slice(total: int, rank: int, size: int) -> slice:
    """Rank's contiguous share of ``total`` things; shares differ by at most one and come in rank order."""
    return slice(total * rank // size, total * (rank + 1) // size)
