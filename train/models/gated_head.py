"""From cluster descriptors to an embedding: what NetVLAD and NeXtVLAD have in common after their clusters.

Source: Lin, Xiao and Fan, "NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
Video Classification" (ECCV Workshops 2018), whose context gate has a hidden layer, as TCA's published code has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ...core.engine.batch_norm import SynchronisedBatchNorm
from ...core.errors import UsageError
from .base import Aggregator
from .frames import padded_frames
from .keyed_dropout import keyed_dropout, sample_keys


class GatedHead(Aggregator):
    """Batch norm, dropout, a linear layer, batch norm, a context gate, unit length; the base of the VLAD aggregators.

    Its parts stand in the aggregator itself under their published names (``bn2``, ``fc1``, ``bn3``, ``fc2``, ``bn4``,
    ``fc3``), so that published weights fit.

    Args:
        width: of the flattened cluster descriptors.
        out_dim: E, of the embedding.
        dropout: probability, in training; keyed by sample.
        gating_reduction: the gate's hidden layer is so many times narrower than the embedding.

    Raises:
        UsageError: nothing would be left of the gate's hidden layer.
    """

    def __init__(self, width: int, out_dim: int, dropout: float, gating_reduction: int) -> None:
        super().__init__()
        hidden = out_dim // gating_reduction
        if not hidden:
            raise UsageError(
                f"an embedding of {out_dim} dimensions is too small for a gate {gating_reduction} times narrower; use "
                f"--output-dim {gating_reduction} or more"
            )
        self.out_dim, self._dropout = out_dim, dropout
        self.bn2 = SynchronisedBatchNorm(width)
        self.fc1 = nn.Linear(width, out_dim)
        self.bn3 = SynchronisedBatchNorm(out_dim)
        self.fc2 = nn.Linear(out_dim, hidden)
        self.bn4 = SynchronisedBatchNorm(hidden)
        self.fc3 = nn.Linear(hidden, out_dim)

    def _video(self, seen: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        return self.embed_clusters(self._clusters(seen, valid), keys)

    def _frames(self, seen: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return padded_frames(F.normalize(seen, dim=-1), valid)

    def _clusters(self, x_FX: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
        """Cluster descriptors [N, K, C] of frames as they are seen: those of all videos, without padding."""
        raise NotImplementedError

    def embed_clusters(self, vlad_NKC: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """Embeddings [N, E], unit rows, of cluster descriptors [N, K, C] with dropout keys int64 [N] or None."""
        vlad_NF = self.bn2(F.normalize(vlad_NKC, dim=2).flatten(1))
        drop = self._dropout if self.training else 0.0
        vlad_NF = keyed_dropout(vlad_NF, drop, sample_keys(keys, vlad_NF, drop), 0)
        activation_NE = self.bn3(self.fc1(vlad_NF))
        gate_NE = torch.sigmoid(self.fc3(F.relu(self.bn4(self.fc2(activation_NE)))))
        return F.normalize(activation_NE * gate_NE, dim=1)
