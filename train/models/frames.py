"""Padded frames: which are valid, their mean, their unit rows. What every aggregator does at its edges."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...core.errors import ReelkinError


def valid_frames(features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Mask bool [N, T] of the frames that belong to a video.

    Args:
        features: [N, T, D].
        lengths: int64 [N], each 1 to T.

    Raises:
        ReelkinError: a video has no frame.
        ValueError: shapes do not match, or a length is over T.
    """
    if features.ndim != 3 or lengths.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)} with lengths {tuple(lengths.shape)}: not [N, T, D] with [N]"
        )
    shortest, longest = (int(lengths.min()), int(lengths.max())) if len(lengths) else (1, 0)
    if shortest < 1:
        row = int(lengths.argmin())
        raise ReelkinError(
            f"video {row} of this batch has no frame ({shortest}), so it has no embedding; leave it out, or extract it "
            "again"
        )
    if longest > features.shape[1]:
        raise ValueError(f"a length of {longest} frames in a batch padded to {features.shape[1]}")
    return torch.arange(features.shape[1], device=features.device) < lengths.to(features.device)[:, None]


def masked_mean(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Mean [N, D] of x [N, T, D] over the frames where ``valid`` bool [N, T]."""
    kept = x.masked_fill(~valid.unsqueeze(-1), 0.0)
    return kept.sum(1) / valid.sum(1, keepdim=True).to(x.dtype)


def unit_frames(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Rows of x [N, T, D] scaled to unit length; zeros where ``valid`` bool [N, T] is false."""
    return F.normalize(x, dim=-1).masked_fill(~valid.unsqueeze(-1), 0.0)


def padded_frames(x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """The inverse of ``padded[valid]``: rows of x [F, ...] where ``valid`` bool [N, T] holds F times; zeros elsewhere.

    Returns:
        [N, T, ...].
    """
    padded = x.new_zeros(*valid.shape, *x.shape[1:])
    padded[valid] = x
    return padded
