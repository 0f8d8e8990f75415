"""Dropout whose mask depends on (sample, place, position) only: not on ranks, batch size, padding or device.

Each sample has a key, made from (seed, step, item) by whoever draws the batch. The mask of one element is a hash of its
sample's key, the place in the network and its indices, so the same sample is thinned in the same way wherever and with
whatever neighbours it is computed, and a resumed run needs no generator state.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

_GOLDEN = 0x9E3779B9 - (1 << 32)
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)


def _mix(word: torch.Tensor) -> torch.Tensor:
    """Scramble int32 words, in place; every input bit reaches every output bit (Wellons' "lowbias32")."""
    # torch shifts int32 arithmetically; the mask makes it a logical shift. Products wrap around, as they should.
    word ^= (word >> 16) & 0xFFFF
    word *= _FIRST
    word ^= (word >> 15) & 0x1FFFF
    word *= _SECOND
    word ^= (word >> 16) & 0xFFFF
    return word


def random_words(keys: torch.Tensor, place: int, shape: Sequence[int]) -> torch.Tensor:
    """Uniform 32-bit words for a tensor of ``shape``.

    Args:
        keys: int64 [N], one key per sample.
        place: number of the place in the network; different places get unrelated words.
        shape: [N, ...]; a word depends on its key, the place and its indices along the further axes.

    Returns:
        int32 of ``shape``, uniform over the whole int32 range.
    """
    if len(keys) != shape[0]:
        raise ValueError(f"{len(keys)} keys for a batch of {shape[0]} samples")
    word = _mix((keys ^ (keys >> 32)).to(torch.int32) + (place + 1) * 0x3C6EF372)
    for size in shape[1:]:
        index = torch.arange(1, size + 1, dtype=torch.int32, device=keys.device) * _GOLDEN
        word = _mix(word.unsqueeze(-1) + index)
    return word


def keyed_dropout(x: torch.Tensor, probability: float, keys: torch.Tensor, place: int) -> torch.Tensor:
    """Zero elements of ``x`` with ``probability`` and scale the others by 1 / (1 - probability).

    Args:
        x: [N, ...] floating point.
        probability: in [0, 1).
        keys: int64 [N], one per sample.
        place: see `random_words`.
    """
    if probability <= 0:
        return x
    threshold = round(probability * (1 << 32)) - (1 << 31)
    keep = random_words(keys, place, x.shape) >= threshold
    return x * (keep.to(x.dtype) * (1.0 / (1.0 - probability)))


def sample_keys(keys: torch.Tensor | None, x: torch.Tensor, probability: float) -> torch.Tensor:
    """The dropout keys int64 [N] of the samples of x [N, ...].

    Without ``keys`` they are drawn from torch's global generator; not if nothing will be dropped, so that a model in
    eval mode leaves the generator alone.
    """
    if keys is not None:
        return keys
    if probability <= 0:
        return torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return torch.randint(1 << 62, (len(x),), device=x.device)
