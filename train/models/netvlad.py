"""NetVLAD: how a video's frames differ from learnt centres, cluster by cluster.

Source: Arandjelovic et al., "NetVLAD: CNN architecture for weakly supervised place recognition" (CVPR 2016), in the
form of TCA's published code (there compared with the transformer): batch norm of the frames, soft assignment with a
bias, residuals normalised per cluster, then a gated linear layer (`gated_head`). Other than there, frames past a
video's end do not count in the batch norm either.

N videos, T frames with padding, F frames without, D dimensions of a frame, K clusters, E of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...core.engine.batch_norm import SynchronisedBatchNorm
from .config_checks import check_counts, check_dropout
from .frames import padded_frames
from .gated_head import GatedHead


@dataclass(frozen=True, kw_only=True)
class NetVLADConfig:
    """The shape of a NetVLAD model, with the published defaults.

    Raises:
        UsageError: a field is out of range.
    """

    dim: int
    """Dimension of the frame features."""
    num_clusters: int = 256
    """Clusters; the linear layer after them has ``num_clusters * dim * output_dim`` weights."""
    output_dim: int = 1024
    """Dimension of the embedding."""
    dropout: float = 0.5
    """Dropout of the cluster descriptors in training."""
    alpha: float = 1.0
    """How sharply frames are assigned to clusters at the start."""
    gating_reduction: int = 8
    """How much narrower than the embedding the gate's hidden layer is."""
    normalize_input: bool = True
    """Scale frames to unit length after their batch norm."""

    def __post_init__(self) -> None:
        check_counts(self, "dim", "num_clusters", "output_dim", "gating_reduction")
        check_dropout(self.dropout)


class NetVLAD(GatedHead):
    """NetVLAD with context gating; parameters bear their published names.

    Attributes:
        out_dim: E, dimension of a video's embedding; frames keep the D dimensions of their features.
    """

    name = "netvlad"
    config: NetVLADConfig

    def __init__(self, config: NetVLADConfig) -> None:
        width = config.num_clusters * config.dim
        super().__init__(width, config.output_dim, config.dropout, config.gating_reduction)
        self.config = config
        self.bn1 = SynchronisedBatchNorm(config.dim)
        self.conv = nn.Conv1d(config.dim, config.num_clusters, kernel_size=1)
        self.centroids = nn.Parameter(torch.rand(config.num_clusters, config.dim))
        with torch.no_grad():
            # The published start: the bias takes the centres' norms, not the squares that the paper derives.
            self.conv.weight.copy_(2.0 * config.alpha * self.centroids[:, :, None])
            self.conv.bias.copy_(-config.alpha * self.centroids.norm(dim=1))  # type: ignore[union-attr]

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """Frames as the clusters see them, after their batch norm, without padding: [F, D].

        The published code's ``encode`` gives cluster descriptors, which no frame-level similarity can compare.
        """
        x_FD = self.bn1(features[valid])
        return F.normalize(x_FD, dim=1) if self.config.normalize_input else x_FD

    def _clusters(self, x_FX: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
        assigned_FK = F.softmax(F.linear(x_FX, self.conv.weight.squeeze(2), self.conv.bias), dim=1)
        assigned_NTK = padded_frames(assigned_FK, valid_NT)
        weight_NK1 = assigned_NTK.sum(1)[:, :, None]
        vlad_NKD = assigned_NTK.transpose(1, 2) @ padded_frames(x_FX, valid_NT).to(assigned_NTK.dtype)
        return vlad_NKD - self.centroids * weight_NK1
