"""The aggregators by name: from a video's frame features to one embedding.

Every aggregator is an ``nn.Module`` with the interface of `Aggregator`. A new one needs a class, a config dataclass
with a field ``dim``, and a line in the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import nn

from ...core.config import super_init
from ...core.errors import UsageError
from .frames import masked_mean, unit_frames, valid_frames
from .netvlad import NetVLAD, NetVLADConfig
from .nextvlad import NeXtVLAD, NeXtVLADConfig
from .recurrent import GRU, LSTM, RecurrentConfig
from .tca import TCA, TCAConfig


@dataclass(frozen=True, kw_only=True)
class AggregatorSettings:
    """Which aggregator is trained; it takes of these fields those that its own config has.

    Raises:
        UsageError: there is no such aggregator, or a field is set that the chosen one does not have.
    """

    aggregator: Literal["tca", "netvlad", "nextvlad", "lstm", "gru", "mean"] = "tca"
    """What makes one embedding of a video's frames: tca (a transformer), or what its paper compares it with. mean has
    nothing to train."""
    num_layers: int | None = None
    """Layers of tca, lstm and gru. Default: 1 of tca, 2 of the others."""
    num_heads: int = 8
    """Of tca: attention heads; must divide the features' dimension."""
    feedforward: int = 2048
    """Of tca: width of the feed-forward branch."""
    dropout: float | None = None
    """Dropout, the same for a video whatever the number of ranks. Default: 0.1 of tca, 0.5 of netvlad and nextvlad, 0.2
    between the layers of lstm and gru."""
    init: Literal["identity", "published"] = "identity"
    """Starting weights of tca: identity starts from mean pooling, published from random mixing, which needs much
    data."""
    positions: Literal["none", "sinusoidal"] = "none"
    """Of tca: positions added to the frames, so that the order of frames counts."""
    final_norm: bool = False
    """Of tca: one more layer norm after the last layer."""
    projection: int = 0
    """Of tca: dimension of the embedding, by a projection; 0: that of the features."""
    output_dim: int | None = None
    """Of netvlad, nextvlad, lstm and gru: dimension of the embedding. Default: 1024."""
    num_clusters: int | None = None
    """Of netvlad and nextvlad. Default: 256 of netvlad, 64 of nextvlad."""
    expansion: int | None = None
    """Of nextvlad: how many times wider frames become before they are grouped. Default: 2."""
    groups_of_channels: int | None = None
    """Of nextvlad: groups of channels. Default: 8."""

    def __post_init__(self) -> None:
        super_init(AggregatorSettings, self)
        known = _fields_of(self.aggregator)
        for field in dataclasses.fields(AggregatorSettings):
            if field.name not in known | {"aggregator"} and getattr(self, field.name) != field.default:
                given = f"--{field.name.replace('_', '-')} {getattr(self, field.name)}"
                raise UsageError(f"{given} has no effect with --aggregator {self.aggregator}; leave it out")

    def make_aggregator(self, dim: int) -> nn.Module:
        """The chosen aggregator for features of ``dim`` dimensions, with weights from torch's global generator."""
        known = _fields_of(self.aggregator)
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(AggregatorSettings)}
        fields = {name: value for name, value in given.items() if name in known and value is not None}
        return build_aggregator(self.aggregator, {"dim": dim, **fields})


class Aggregator(Protocol):
    """What the rest of the package expects of an aggregator besides being an ``nn.Module``.

    Attributes:
        name: its key in `AGGREGATORS`.
        config: its shape.
        out_dim: E, dimension of a video's embedding.

    Both calls take

        features: [N, T, D] floating point; what stands past a video's end has no influence.
        lengths: int64 [N], frames of each video, 1 to T.
        keys: int64 [N], the samples' dropout keys; only used in training mode, and by those that have dropout. Default:
            drawn from torch's global generator.

    and raise ReelkinError if a video has no frame.
    """

    name: str
    config: Any
    out_dim: int

    def forward(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Video embeddings [N, E], rows of unit length."""
        ...

    def encode(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Frame embeddings [N, T, F], rows of unit length, zeros past each video's end; F is E or another width."""
        ...


@dataclass(frozen=True, kw_only=True)
class MeanPoolingConfig:
    """Mean pooling has no parameter."""

    dim: int
    """Dimension of the frame features and of the embedding."""


class MeanPooling(nn.Module):
    """The mean of a video's frame features, L2-normalised: the baseline that a trained aggregator has to beat."""

    name = "mean"

    def __init__(self, config: MeanPoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.dim

    def forward(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """Video embeddings [N, D]; see `Aggregator`."""
        return F.normalize(masked_mean(features, valid_frames(features, lengths)), dim=-1)

    def encode(self, features: torch.Tensor, lengths: torch.Tensor, keys: torch.Tensor | None = None) -> torch.Tensor:
        """The frames themselves [N, T, D], at unit length; see `Aggregator`."""
        return unit_frames(features, valid_frames(features, lengths))


AGGREGATORS: dict[str, tuple[type, type[nn.Module]]] = {
    TCA.name: (TCAConfig, TCA),
    NetVLAD.name: (NetVLADConfig, NetVLAD),
    NeXtVLAD.name: (NeXtVLADConfig, NeXtVLAD),
    LSTM.name: (RecurrentConfig, LSTM),
    GRU.name: (RecurrentConfig, GRU),
    MeanPooling.name: (MeanPoolingConfig, MeanPooling),
}


def build_aggregator(name: str, fields: Mapping[str, Any]) -> nn.Module:
    """Make an aggregator.

    Args:
        name: a key of `AGGREGATORS`.
        fields: of its config dataclass.

    Raises:
        UsageError: no such aggregator, a field that it does not have, or a value that it refuses.
    """
    known = _fields_of(name)
    if unknown := sorted(set(fields) - known):
        raise UsageError(f"aggregator {name} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    config_class, module_class = AGGREGATORS[name]
    return cast(nn.Module, module_class(config_class(**fields)))


def out_dim(model: nn.Module) -> int:
    """E, the dimension of an aggregator's embeddings."""
    return cast(Aggregator, model).out_dim


def _fields_of(name: str) -> set[str]:
    if name not in AGGREGATORS:
        raise UsageError(f"there is no aggregator {name!r}; choose one of {', '.join(sorted(AGGREGATORS))}")
    return {field.name for field in dataclasses.fields(AGGREGATORS[name][0])}
