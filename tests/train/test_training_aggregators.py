"""Aggregators other than TCA as published go through training, resuming, validation and the model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reelkin.core.errors import ExitCode, UsageError
from reelkin.train.checkpoint import load_model, open_model
from reelkin.train.models.aggregators import out_dim
from reelkin.train.recipes.tca import TcaRecipe
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.session import RECIPES, run

from .conftest import DIM, Data


def train(data: Data, output: Path, **fields: Any) -> int:
    small: dict[str, Any] = {
        "copies": data.copies, "steps": 6, "batch_size": 12, "queue_size": 50, "log_every": 2, "checkpoint_every": 3,
        "warmup_steps": 1, "threads": 1, "hold_out": 0.3, "validate_every": 3, "negatives_per_anchor": 1,
    }  # fmt: skip
    return run(RECIPES["tca"], TcaRecipe(features=data.store, output=output, **(small | fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregator": "netvlad", "num_clusters": 4, "output_dim": 16},
        {"aggregator": "nextvlad", "num_clusters": 4, "output_dim": 16, "momentum": 0.0},
        {"aggregator": "gru", "output_dim": 40},
        {"positions": "sinusoidal", "final_norm": True, "projection": 12, "feedforward": 32},
    ],
    ids=["netvlad", "nextvlad", "gru", "tca"],
)
def test_a_run_in_two_parts_ends_in_the_weights_of_a_whole_one(
    data: Data, tmp_path: Path, fields: dict[str, Any]
) -> None:
    assert train(data, tmp_path / "whole", **fields) == ExitCode.OK
    assert train(data, tmp_path / "parts", stop_after=4, **fields) == ExitCode.STOPPED
    assert train(data, tmp_path / "parts", **fields) == ExitCode.OK
    one, two = (load_model(tmp_path / name).state_dict() for name in ("whole", "parts"))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    rows = RunFolder(tmp_path / "whole").metrics()
    assert all(0 < row["validation"]["map"] <= 1 for row in rows if "validation" in row)
    loaded = open_model(tmp_path / "whole")
    width = fields.get("output_dim") or fields["projection"]
    assert loaded.name == fields.get("aggregator", "tca") and out_dim(loaded.module) == width != DIM
    assert loaded.module(torch.randn(2, 3, DIM), torch.tensor([3, 1])).shape == (2, width)


def test_batch_norm_refuses_a_batch_in_parts(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--accumulation 2: a model with batch norm has to see a batch whole"):
        train(data, tmp_path, aggregator="lstm", output_dim=16, accumulation=2)


def test_mean_pooling_cannot_be_trained(data: Data, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        train(data, tmp_path, aggregator="mean")
