"""Temporal Context Aggregation: a transformer encoder over a video's frames, then their mean.

Source: Shao et al., "Temporal Context Aggregation for Video Retrieval with Contrastive Learning" (WACV 2021). As
published: post-norm layers (8 heads, feed-forward 2048, ReLU), no positions, no final norm, no projection; the mean
over a video's own frames, L2-normalised. Positions, final norm and projection are options, off by default.

Shapes: N videos, T frames with padding, D dimensions of a frame's features, E of an embedding, H heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from ...core.errors import UsageError
from .base import Aggregator
from .config_checks import check_counts, check_dropout
from .keyed_dropout import keyed_dropout, sample_keys
from .positions import sinusoidal_positions

PLACES_PER_LAYER = 4


@dataclass(frozen=True, kw_only=True)
class TCAConfig:
    """The shape of a TCA model.

    Raises:
        UsageError: a field is out of range, or ``dim`` is not a multiple of ``num_heads``.
    """

    dim: int
    """Dimension of the frame features, and of the embedding unless there is a projection."""
    num_layers: int = 1
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads; must divide ``dim``."""
    feedforward: int = 2048
    """Width of the feed-forward branch."""
    dropout: float = 0.1
    """Dropout in training: of attention weights, both residual branches and the feed-forward's hidden layer."""
    init: Literal["published", "identity"] = "published"
    """Starting weights; see `TCA`."""
    positions: Literal["none", "sinusoidal"] = "none"
    """What is added to the frames so that the layers know their order. Without, a shuffled video embeds the same."""
    final_norm: bool = False
    """One more layer norm after the last layer."""
    projection: int = 0
    """Dimension to which frames are mapped before they are averaged; 0 maps nothing."""

    def __post_init__(self) -> None:
        check_counts(self, "dim", "num_layers", "num_heads", "feedforward")
        check_dropout(self.dropout)
        if self.init not in ("published", "identity"):
            raise UsageError(f"init is {self.init!r}; choose published or identity")
        if self.positions not in ("none", "sinusoidal"):
            raise UsageError(f"positions is {self.positions!r}; choose none or sinusoidal")
        if self.projection < 0:
            raise UsageError(f"projection is {self.projection}; give the embedding's dimension, or 0 for no projection")
        if self.dim % self.num_heads:
            fits = [heads for heads in range(1, 17) if self.dim % heads == 0]
            raise UsageError(
                f"features of {self.dim} dimensions cannot be shared by {self.num_heads} heads: use --num-heads "
                f"{max(fits)} (of {', '.join(map(str, fits))}), or fit the PCA with a multiple of "
                f"{self.num_heads} components"
            )


class TCA(Aggregator):
    """The published model, with weights under the names of ``torch.nn.TransformerEncoder`` (``encoder.layers.0...``).

    ``init="published"`` starts from torch's defaults: the untrained model mixes the features at random, and a run needs
    enough data to undo that. ``init="identity"`` starts with both residual branches' output projections at zero, so
    that the untrained model is exactly the mean of layer-normed frames: training starts from mean pooling, a strong
    baseline, and improves on it from the first step, which is what small data sets need. The weight of positions, a
    single learnt number, then starts at 0 (at 1 with "published"), and the projection with orthonormal rows (or
    columns, if it leads to more dimensions).

    Attributes:
        out_dim: E, dimension of the embeddings of videos and frames.

    Dropout is keyed by sample (see `keyed_dropout`). The computation is written out over the parameters of torch's own
    layers: torch's fast path may return fewer frames than it was given, and its dropout depends on the batch.
    """

    name = "tca"
    config: TCAConfig

    def __init__(self, config: TCAConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.projection or config.dim
        layer = nn.TransformerEncoderLayer(
            config.dim,
            config.num_heads,
            dim_feedforward=config.feedforward,
            dropout=config.dropout,
            activation="relu",
            batch_first=True,
            norm_first=False,
        )
        norm = nn.LayerNorm(config.dim) if config.final_norm else None
        self.encoder = nn.TransformerEncoder(layer, config.num_layers, norm=norm, enable_nested_tensor=False)
        self.position_scale = (
            nn.Parameter(torch.full((1,), float(config.init == "published"))) if config.positions != "none" else None
        )
        self.projection = nn.Linear(config.dim, config.projection, bias=False) if config.projection else None
        if config.init == "identity":
            if self.projection is not None:
                nn.init.orthogonal_(self.projection.weight)
            for each in cast(list[nn.TransformerEncoderLayer], self.encoder.layers):
                for projection in (each.self_attn.out_proj, each.linear2):
                    nn.init.zeros_(projection.weight)
                    nn.init.zeros_(projection.bias)

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        drop = self.config.dropout if self.training else 0.0
        keys = sample_keys(keys, features, drop)
        x_NTD = features.masked_fill(~valid.unsqueeze(-1), 0.0)  # not a number past the end must not spread
        if self.position_scale is not None:
            place_TD = sinusoidal_positions(*x_NTD.shape[1:], dtype=x_NTD.dtype, device=x_NTD.device)
            x_NTD = x_NTD + self.position_scale * place_TD
        for number, layer in enumerate(self.encoder.layers):
            x_NTD = _encoder_layer(
                cast(nn.TransformerEncoderLayer, layer), x_NTD, valid, drop, keys, number * PLACES_PER_LAYER
            )
        if self.encoder.norm is not None:
            x_NTD = self.encoder.norm(x_NTD)
        return x_NTD if self.projection is None else self.projection(x_NTD)


def _encoder_layer(
    layer: nn.TransformerEncoderLayer,
    x_NTD: torch.Tensor,
    valid_NT: torch.Tensor,
    drop: float,
    keys: torch.Tensor,
    place: int,
) -> torch.Tensor:
    """One post-norm transformer layer over the parameters of a ``torch.nn.TransformerEncoderLayer``."""
    attended = _attention(layer.self_attn, x_NTD, valid_NT, drop, keys, place)
    x_NTD = layer.norm1(x_NTD + keyed_dropout(attended, drop, keys, place + 1))
    hidden = keyed_dropout(F.relu(layer.linear1(x_NTD)), drop, keys, place + 2)
    return layer.norm2(x_NTD + keyed_dropout(layer.linear2(hidden), drop, keys, place + 3))


def _attention(
    attention: nn.MultiheadAttention,
    x_NTD: torch.Tensor,
    valid_NT: torch.Tensor,
    drop: float,
    keys: torch.Tensor,
    place: int,
) -> torch.Tensor:
    num, frames, dim = x_NTD.shape
    heads = attention.num_heads
    projected = F.linear(x_NTD, attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = projected.view(num, frames, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)  # [N, H, T, D / H] each
    seen = valid_NT[:, None, None, :]
    if drop:
        score_NHTT = (q @ k.transpose(-2, -1)) * (dim // heads) ** -0.5
        weight_NHTT = score_NHTT.masked_fill(~seen, float("-inf")).softmax(-1)
        mixed = keyed_dropout(weight_NHTT, drop, keys, place) @ v
    else:
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return attention.out_proj(mixed.transpose(1, 2).reshape(num, frames, dim))
