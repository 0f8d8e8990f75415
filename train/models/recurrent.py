"""LSTM and GRU over a video's frames, then the mean of their outputs.

Source: the published code of Shao et al., "Temporal Context Aggregation for Video Retrieval with Contrastive Learning"
(WACV 2021), where they are compared with the transformer: batch norm of the frames, two layers of 1,024 units with
dropout between them, the mean over a video's own frames, L2-normalised. Other than there, frames past a video's end do
not count in the batch norm either.

N videos, T frames with padding, D dimensions of a frame, E of an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ...core.engine.batch_norm import SynchronisedBatchNorm
from .base import Aggregator
from .config_checks import check_counts, check_dropout
from .frames import padded_frames
from .keyed_dropout import keyed_dropout, sample_keys


@dataclass(frozen=True, kw_only=True)
class RecurrentConfig:
    """The shape of an LSTM or GRU model, with the published defaults.

    Raises:
        UsageError: a field is out of range.
    """

    dim: int
    """Dimension of the frame features."""
    output_dim: int = 1024
    """Units of each layer: the dimension of the embedding."""
    num_layers: int = 2
    """Layers."""
    dropout: float = 0.2
    """Dropout between layers in training."""

    def __post_init__(self) -> None:
        check_counts(self, "dim", "output_dim", "num_layers")
        check_dropout(self.dropout)


class _Recurrent(Aggregator):
    """What the two have in common.

    Attributes:
        out_dim: E, dimension of the embeddings of videos and frames.
    """

    config: RecurrentConfig

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.output_dim
        self.bn1 = SynchronisedBatchNorm(config.dim)

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        # Layers run forward in time only, so that the zeros past a video's end come too late to change its frames.
        x_NTC = padded_frames(self.bn1(features[valid]), valid)
        drop = self.config.dropout if self.training else 0.0
        keys = sample_keys(keys, x_NTC, drop)
        for layer in range(self.config.num_layers):
            if layer:
                x_NTC = keyed_dropout(x_NTC, drop, keys, layer - 1)
            x_NTC = self._layer(x_NTC, layer)
        return x_NTC

    def _layer(self, x_NTC: torch.Tensor, layer: int) -> torch.Tensor:
        """Outputs [N, T, E] of one layer."""
        raise NotImplementedError


def _weights(network: nn.RNNBase, layer: int) -> list[torch.Tensor]:
    return [getattr(network, f"{name}_l{layer}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


class LSTM(_Recurrent):
    """Layers of long short-term memory; parameters bear their published names."""

    name = "lstm"

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.LSTM = nn.LSTM(config.dim, config.output_dim, config.num_layers, batch_first=True)

    def _layer(self, x_NTC: torch.Tensor, layer: int) -> torch.Tensor:
        start = x_NTC.new_zeros(1, len(x_NTC), self.out_dim)
        weights = _weights(self.LSTM, layer)
        return torch.lstm(x_NTC, [start, start], weights, True, 1, 0.0, self.training, False, True)[0]


class GRU(_Recurrent):
    """Layers of gated recurrent units; parameters bear their published names."""

    name = "gru"

    def __init__(self, config: RecurrentConfig) -> None:
        super().__init__(config)
        self.GRU = nn.GRU(config.dim, config.output_dim, config.num_layers, batch_first=True)

    def _layer(self, x_NTC: torch.Tensor, layer: int) -> torch.Tensor:
        start = x_NTC.new_zeros(1, len(x_NTC), self.out_dim)
        return torch.gru(x_NTC, start, _weights(self.GRU, layer), True, 1, 0.0, self.training, False, True)[0]
