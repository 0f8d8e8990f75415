"""Descriptors: how the feature maps of a network become one row of numbers per frame or clip.

* ``imac``: Kordopatis-Zilos et al., "Near-Duplicate Video Retrieval by Aggregating Intermediate CNN Layers" (2017), in
  the form that TCA (WACV 2021) uses: every location is L2-normalised across channels, the maximum is taken over space
  (and time), the result is L2-normalised, and the stages are concatenated. The concatenation is NOT normalised again:
  with S stages its norm is sqrt(S), 2 for the four stages of a ResNet.
* ``rmac``: the region variant of TCA's published feature code: maxima over 3 x 3 overlapping regions, each region
  L2-normalised, summed, L2-normalised, stages concatenated. The locations are not normalised first.
* ``avg``: the mean over space (and time), L2-normalised, stages concatenated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def imac(maps: Sequence[Tensor]) -> Tensor:
    """Maximum activations of locally normalised maps.

    Args:
        maps: per stage [N, C_s, ...] float with one or more dimensions of space and time, after the activation.

    Returns:
        [N, sum of C_s], float32 or float64; each stage's part has norm 1 (0 where a map is all zeros).
    """
    # amax over flattened space: one pass over memory in either layout
    pooled = [_unit(x).flatten(2).amax(dim=2) for x in maps]
    return torch.cat([_precise_unit(x) for x in pooled], dim=1)


def rmac(maps: Sequence[Tensor]) -> Tensor:
    """Sums of 3 x 3 regional maxima.

    With p = int(2 min(H, W) / 7) the regions are int(1.5 p) pixels wide and p pixels apart, as the published code has
    them; it always sees square maps (56, 28, 14 and 7 pixels), where this gives exactly 3 x 3 regions. Longer maps give
    more regions along their long side.

    Args:
        maps: per stage [N, C_s, H, W] float with H and W of at least 4 pixels.

    Returns:
        [N, sum of C_s], float32 or float64; each stage's part has norm 1.
    """
    parts = []
    for x in maps:
        step = max(1, int(2 * min(x.shape[2:]) / 7))
        regions = functional.max_pool2d(x, kernel_size=max(1, int(1.5 * step)), stride=step)
        parts.append(_precise_unit(_unit(regions).sum(dim=(2, 3), dtype=_at_least_float32(x))))
    return torch.cat(parts, dim=1)


def average(maps: Sequence[Tensor]) -> Tensor:
    """Global averages: per stage [N, C_s, ...] -> [N, sum of C_s]; each stage's part has norm 1."""
    return torch.cat([_precise_unit(x.flatten(2).mean(dim=2, dtype=_at_least_float32(x))) for x in maps], dim=1)


POOLINGS: dict[str, Callable[[Sequence[Tensor]], Tensor]] = {"imac": imac, "rmac": rmac, "avg": average}
"""Descriptors made of feature maps; ``head``, the network's own embedding, needs none."""


def _unit(x: Tensor) -> Tensor:
    # as functional.normalize, without its expand, which would tie a traced graph to one batch size
    return x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)


def _precise_unit(x: Tensor) -> Tensor:
    # The type is written out, so that it stays where a graph is brought into half precision: the result is float32.
    norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=_at_least_float32(x))
    return x / norm.clamp_min(1e-12)


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
