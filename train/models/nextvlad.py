"""NeXtVLAD: NetVLAD over groups of channels, each group of each frame with a weight of its own.

Source: Lin, Xiao and Fan, "NeXtVLAD: An Efficient Neural Network to Aggregate Frame-level Features for Large-scale
Video Classification" (ECCV Workshops 2018), in the form of TCA's published code. A group there is every G-th channel
of the expanded features, not a run of neighbours. Other than there, frames past a video's end do not count in the
batch norm either.

N videos, T frames with padding, F frames without, D dimensions of a frame, X after expansion, G groups, C = X / G
channels of a group, K clusters, E of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ...core.engine.batch_norm import SynchronisedBatchNorm
from ...core.errors import UsageError
from .config_checks import check_counts, check_dropout
from .frames import padded_frames
from .gated_head import GatedHead


@dataclass(frozen=True, kw_only=True)
class NeXtVLADConfig:
    """The shape of a NeXtVLAD model, with the published defaults.

    Raises:
        UsageError: a field is out of range, or the expanded features cannot be shared by the groups.
    """

    dim: int
    """Dimension of the frame features."""
    num_clusters: int = 64
    """Clusters."""
    output_dim: int = 1024
    """Dimension of the embedding."""
    dropout: float = 0.5
    """Dropout of the cluster descriptors in training."""
    expansion: int = 2
    """How many times wider frames become before they are grouped."""
    groups_of_channels: int = 8
    """Groups of channels; must divide ``dim * expansion``."""
    gating_reduction: int = 8
    """How much narrower than the embedding the gate's hidden layer is."""
    normalize_input: bool = True
    """Scale frames to unit length."""

    def __post_init__(self) -> None:
        check_counts(self, "dim", "num_clusters", "output_dim", "expansion", "groups_of_channels", "gating_reduction")
        check_dropout(self.dropout)
        expanded = self.dim * self.expansion
        if expanded % self.groups_of_channels:
            fits = [groups for groups in range(1, 17) if expanded % groups == 0]
            raise UsageError(
                f"features of {self.dim} dimensions, expanded to {expanded}, cannot be shared by "
                f"{self.groups_of_channels} groups: use --groups-of-channels {max(fits)} (of "
                f"{', '.join(map(str, fits))})"
            )


class NeXtVLAD(GatedHead):
    """NeXtVLAD with context gating; parameters bear their published names.

    Attributes:
        out_dim: E, dimension of a video's embedding; frames have the X dimensions of the expansion.
    """

    name = "nextvlad"
    config: NeXtVLADConfig

    def __init__(self, config: NeXtVLADConfig) -> None:
        expanded, assigned = config.dim * config.expansion, config.num_clusters * config.groups_of_channels
        channels = expanded // config.groups_of_channels
        super().__init__(channels * config.num_clusters, config.output_dim, config.dropout, config.gating_reduction)
        self.config = config
        self.conv1 = nn.Conv1d(config.dim, expanded, kernel_size=1)
        self.conv2 = nn.Conv1d(expanded, config.groups_of_channels, kernel_size=1)
        self.conv3 = nn.Conv1d(expanded, assigned, kernel_size=1, bias=False)
        self.bn1 = SynchronisedBatchNorm(assigned)
        self.centroids = nn.Parameter(torch.rand(config.num_clusters, channels))

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        """Frames as the clusters see them, expanded, without padding: [F, X].

        The published code's ``encode`` gives cluster descriptors, which no frame-level similarity can compare.
        """
        x_FD = features[valid]
        return _pointwise(self.conv1, F.normalize(x_FD, dim=1) if self.config.normalize_input else x_FD)

    def _clusters(self, x_FX: torch.Tensor, valid_NT: torch.Tensor) -> torch.Tensor:
        attention_FG = torch.sigmoid(_pointwise(self.conv2, x_FX))
        assigned_FKG = (
            self.bn1(_pointwise(self.conv3, x_FX)).unflatten(1, (-1, self.config.groups_of_channels)).softmax(1)
        )
        assigned_NTKG = padded_frames(assigned_FKG * attention_FG[:, None], valid_NT)
        weight_NK1 = assigned_NTKG.sum((1, 3))[:, :, None]
        x_NTCG = (
            padded_frames(x_FX, valid_NT).unflatten(2, (-1, self.config.groups_of_channels)).to(assigned_NTKG.dtype)
        )
        vlad_NKC = torch.einsum("ntkg,ntcg->nkc", assigned_NTKG, x_NTCG)
        return vlad_NKC - self.centroids * weight_NK1


def _pointwise(conv: nn.Conv1d, x_FC: torch.Tensor) -> torch.Tensor:
    """A convolution of width 1 over rows."""
    return F.linear(x_FC, conv.weight.squeeze(2), conv.bias)
