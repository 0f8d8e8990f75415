"""The aggregators by name: from a video's frame features to one embedding.

A new one needs a class (see `base.Aggregator`), a config dataclass with a field ``dim``, and a line in the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from ...core.config import super_init
from ...core.errors import UsageError
from .base import Aggregator
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


@dataclass(frozen=True, kw_only=True)
class MeanPoolingConfig:
    """Mean pooling has no parameter."""

    dim: int
    """Dimension of the frame features and of the embedding."""


class MeanPooling(Aggregator):
    """The mean of a video's frame features, L2-normalised: the baseline that a trained aggregator has to beat."""

    name = "mean"

    def __init__(self, config: MeanPoolingConfig) -> None:
        super().__init__()
        self.config = config
        self.out_dim = config.dim

    def _seen(self, features: torch.Tensor, valid: torch.Tensor, keys: torch.Tensor | None) -> torch.Tensor:
        return features


AGGREGATORS: dict[str, tuple[type, type[Aggregator]]] = {
    TCA.name: (TCAConfig, TCA),
    NetVLAD.name: (NetVLADConfig, NetVLAD),
    NeXtVLAD.name: (NeXtVLADConfig, NeXtVLAD),
    LSTM.name: (RecurrentConfig, LSTM),
    GRU.name: (RecurrentConfig, GRU),
    MeanPooling.name: (MeanPoolingConfig, MeanPooling),
}


def build_aggregator(name: str, fields: Mapping[str, Any]) -> Aggregator:
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
    return cast(Aggregator, module_class(config_class(**fields)))


def out_dim(model: nn.Module) -> int:
    """E, the dimension of an aggregator's embeddings."""
    return cast(Aggregator, model).out_dim


def _fields_of(name: str) -> set[str]:
    if name not in AGGREGATORS:
        raise UsageError(f"there is no aggregator {name!r}; choose one of {', '.join(sorted(AGGREGATORS))}")
    return {field.name for field in dataclasses.fields(AGGREGATORS[name][0])}
