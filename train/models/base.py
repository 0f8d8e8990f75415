"""What every aggregator is: frame features in, an embedding of each video and of each frame out.

N videos, T frames with padding, D dimensions of a frame's features, E of a video's embedding, F of a frame's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .frames import masked_mean, unit_frames, valid_frames


class Aggregator(nn.Module):
    """Base of the aggregators. A subclass says how frames are seen, and how they become embeddings where that is not
    by their mean and their unit rows.

    Attributes:
        name: in the table of aggregators.
        config: its config dataclass, with a field ``dim`` (D).
        out_dim: E.
    """

    name: str
    config: Any
    out_dim: int

    def forward(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Embed videos.

        Args:
            features: [N, T, D] floating point; what stands past a video's end has no influence.
            lengths: int64 [N], frames of each video, 1 to T.
            keys: int64 [N], dropout keys of the samples; only used in training mode. Default: drawn from torch's
                global generator.

        Returns:
            [N, E], rows of unit length.

        Raises:
            ReelkinError: a video has no frame.
            UsageError: in training mode and with batch norm, one frame (or one video) on all ranks together.
        """
        valid_NT = valid_frames(features, lengths)
        return self._video(self._seen(features, valid_NT, keys), valid_NT, keys)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Embed frames: [N, T, F], rows of unit length, zeros past each video's end. Arguments as `forward`."""
        valid_NT = valid_frames(features, lengths)
        return self._frames(self._seen(features, valid_NT, keys), valid_NT)

    def forward_and_encode(
        self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` and `encode` give, from one pass over the frames. Arguments as `forward`."""
        valid_NT = valid_frames(features, lengths)
        seen = self._seen(features, valid_NT, keys)
        return self._video(seen, valid_NT, keys), self._frames(seen, valid_NT)

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """The frames that embeddings are made of, [N, T, F]; where ``valid`` bool [N, T] is false anything may stand. A
        subclass with a `_video` and a `_frames` of its own may leave those out."""
        raise NotImplementedError

    def _video(self, seen: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """Video embeddings [N, E]."""
        return F.normalize(masked_mean(seen, valid), dim=-1)

    def _frames(self, seen: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Frame embeddings [N, T, F]."""
        return unit_frames(seen, valid)
