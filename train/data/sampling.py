"""Which items make up the global batch of a step: a function of (seed, epoch, step) and nothing else.

The items of all epochs form one endless stream, each epoch a permutation of its own; step s takes the B items from
position s * B on. No item is dropped, however B divides the epoch, and a rank's share is a slice of the global batch,
so that the number of ranks changes nothing about what is trained on.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from ...core.errors import UsageError
from ...core.seeds import generator


class GlobalSampler:
    """Items of the global batches.

    Args:
        num_items: I, items of an epoch.
        batch_size: B, items of a global batch (all ranks together).
        seed: of the permutations.
    """

    def __init__(self, num_items: int, batch_size: int, seed: int) -> None:
        if num_items < 1 or batch_size < 1:
            raise UsageError(f"a batch of {batch_size} out of {num_items} items; both must be at least 1")
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self._permutation = functools.lru_cache(maxsize=4)(self._make_permutation)

    def _make_permutation(self, epoch: int) -> NDArray[np.int64]:
        return generator(self.seed, "permutation", epoch).permutation(self.num_items)

    def items(self, step: int) -> NDArray[np.int64]:
        """int64 [B]: the items of global batch ``step`` (counted from 0)."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs = positions // self.num_items
        drawn = [
            self._permutation(int(epoch))[position % self.num_items]
            for epoch, position in zip(epochs, positions, strict=True)
        ]
        return np.array(drawn, dtype=np.int64)

    def epoch(self, step: int) -> float:
        """Epochs done before ``step``."""
        return step * self.batch_size / self.num_items

    def steps_of(self, epochs: float) -> int:
        """Steps that visit every item ``epochs`` times, rounded up."""
        return max(1, int(np.ceil(epochs * self.num_items / self.batch_size - 1e-9)))


def rank_slice(total: int, rank: int, size: int) -> slice:
    """Rank's contiguous share of ``total`` things; shares differ by at most one and come in rank order."""
    return slice(total * rank // size, total * (rank + 1) // size)
