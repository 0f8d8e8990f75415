"""A model meets only features made as those that it was trained on, as far as both sides know how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reelkin.core.errors import ReelkinError
from reelkin.search.embed import check_model
from reelkin.train.checkpoint import NOT_RECORDED, LoadedModel
from reelkin.train.models.aggregators import MeanPooling, MeanPoolingConfig

ENCODER = {"name": "resnet50", "weights_sha256": "aa"}
KNOWN: dict[str, Any] = {"encoder": ENCODER, "pca": {"sha256": "bb"}}


def check(facts: dict[str, Any], info: dict[str, Any]) -> None:
    module = MeanPooling(MeanPoolingConfig(dim=4))
    check_model(module, None, LoadedModel(module, Path("model"), None, {"facts": facts}, "cc"), info)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pca": {"sha256": "dd"}}, "PCA was 'bb', is 'dd'"),
        ({"pca": None}, "PCA was 'bb', is 'none'"),
        ({"encoder": {**ENCODER, "weights_sha256": "ee"}}, "encoder weights_sha256 was 'aa', is 'ee'"),
    ],
)
def test_features_made_otherwise_are_refused_with_both_sides(changed: dict[str, Any], message: str) -> None:
    check({"frame encoder": ENCODER, "PCA": "bb"}, KNOWN)
    with pytest.raises(ReelkinError, match=message):
        check({"frame encoder": ENCODER, "PCA": "bb"}, KNOWN | changed)


def test_what_one_side_does_not_know_is_not_held_against_the_other() -> None:
    check({"frame encoder": NOT_RECORDED, "PCA": NOT_RECORDED}, KNOWN)  # trained on an HDF5 file
    check({"frame encoder": ENCODER, "PCA": "bb"}, {"layout": "hdf5"})  # or scored on one
    with pytest.raises(ReelkinError, match="PCA was 'none', is 'bb'"):
        check({"frame encoder": NOT_RECORDED, "PCA": "none"}, KNOWN)  # known to be without is not unknown
