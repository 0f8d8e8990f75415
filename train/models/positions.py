"""Sinusoidal positions: where in its video a frame stands."""

from __future__ import annotations

import math

import torch


def sinusoidal_positions(frames: int, dim: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Position vectors [frames, dim]: sines in even columns, cosines in odd ones, wavelengths from 2 pi to 20,000 pi.

    Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), section 3.5. They are divided by sqrt(dim / 2),
    which gives them unit length (nearly, where ``dim`` is odd), because frame features have about that length: at
    their original length, 22 for 1,024 dimensions, next to nothing of a frame would be left in the sum.
    """
    position_T1 = torch.arange(frames, dtype=torch.float64, device=device)[:, None]
    column_D = torch.arange(dim, dtype=torch.float64, device=device)
    angle_TD = position_T1 * torch.exp(-math.log(10_000) * 2 * (column_D // 2) / dim)
    even = torch.arange(dim, device=device) % 2 == 0
    return (torch.where(even, angle_TD.sin(), angle_TD.cos()) / math.sqrt(dim / 2)).to(dtype)
