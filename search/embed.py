"""What is embedded for a search: features in memory, and the check that a model takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..core.errors import ReelkinError
from ..extract.describe import COMPARED
from ..train.checkpoint import NOT_RECORDED, LoadedModel


class FeaturesInMemory:
    """Frame features held in a dict, with the interface of a store."""

    def __init__(self, features: Mapping[str, NDArray[np.floating]]) -> None:
        self._features = features
        self.video_ids = list(features)
        self.dim: int = next((each.shape[1] for each in features.values()), 0)

    def features(self, video_id: str) -> NDArray[np.floating]:
        """Frame features [T, D]."""
        return self._features[video_id]

    def num_frames(self, video_id: str) -> int:
        """Number of frames of a video."""
        return len(self._features[video_id])


def check_model(
    model: nn.Module, source: object, loaded: LoadedModel | None = None, info: Mapping[str, Any] | None = None
) -> None:
    """Refuse a model that was trained on other features.

    Args:
        model: the model.
        source: whose ``dim`` is that of the features.
        loaded: where the model comes from, and what it was trained on.
        info: what made the features: ``encoder`` and ``pca`` of store.json; what is not known is not compared.

    Raises:
        ReelkinError: with every difference, both sides named.
    """
    takes = getattr(getattr(model, "config", None), "dim", None)
    has = getattr(source, "dim", takes)
    differences = [] if takes == has else [f"it takes features of {takes} dimensions, these have {has}"]
    facts = loaded.facts if loaded else {}
    if info is not None and "encoder" in info and isinstance(facts.get("frame encoder"), dict):
        trained, made = facts["frame encoder"], info["encoder"] or {}
        differences += [
            f"encoder {key} was {trained.get(key)!r}, is {made.get(key)!r}"
            for key in COMPARED
            if trained.get(key) != made.get(key)
        ]
    if info is not None and "pca" in info and facts.get("PCA", NOT_RECORDED) != NOT_RECORDED:
        trained_pca, pca = facts["PCA"], (info["pca"] or {}).get("sha256", "none")
        differences += [] if trained_pca == pca else [f"PCA was {trained_pca!r}, is {pca!r}"]
    if differences:
        where = f" in {loaded.path}" if loaded else ""
        raise ReelkinError(
            f"the model{where} was trained on other features: {'; '.join(differences)}. "
            "Use the store (encoder and PCA) that it was trained on"
        )
