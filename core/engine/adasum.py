"""The Adasum rule, as a reference in plain tensor operations.

Source: Maleki et al., "Scaling Distributed Training with Adaptive Summation", MLSys 2021, section 3. Orthogonal
gradients are summed (they do not disturb each other), parallel ones averaged (they say the same thing).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def adasum_pair(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Combine two gradients: ``(1 - a.b / 2|a|^2) a + (1 - a.b / 2|b|^2) b``.

    Args:
        first, second: [...] of the same shape, floating point. A zero gradient leaves the other as it is.

    Returns:
        [...] of the same shape and dtype; dot products are taken in float64.
    """
    a, b = first.double().flatten(), second.double().flatten()
    dot, square_a, square_b = a @ b, a @ a, b @ b
    weight_a = 1 - dot / (2 * square_a) if square_a > 0 else torch.ones(())
    weight_b = 1 - dot / (2 * square_b) if square_b > 0 else torch.ones(())
    return (weight_a * first.double() + weight_b * second.double()).to(first.dtype)


def adasum(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Combine the gradients of all ranks: neighbours first, then neighbouring pairs, and so on.

    Args:
        gradients: a power of two tensors [...] of the same shape.

    Raises:
        ValueError: their number is not a power of two.
    """
    if not gradients or len(gradients) & (len(gradients) - 1):
        raise ValueError(f"Adasum needs a power of two gradients, got {len(gradients)}")
    level = list(gradients)
    while len(level) > 1:
        level = [adasum_pair(level[i], level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]
