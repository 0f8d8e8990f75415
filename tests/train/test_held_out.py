"""Held-out videos: kept from training with everything that shows the same, and what is odd about them is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reelkin.core.engine import start
from reelkin.core.errors import UsageError
from reelkin.extract.store import FeatureStore
from reelkin.train.recipes.tca import TcaRecipe, build

from .conftest import Data, write_csv


def recipe(data: Data, output: Path, **fields: Any) -> TcaRecipe:
    return TcaRecipe(features=data.store, copies=data.copies, output=output, feedforward=32, threads=1, **fields)


def test_held_out_videos_are_not_trained_on(data: Data, tmp_path: Path) -> None:
    held = write_csv(
        tmp_path / "held.csv", ("video_id", "group"), ("s00", "0"), ("s00__1", "0"), ("s01", "1"), ("s01__2", "1")
    )
    with start("single") as engine:
        built = build(recipe(data, tmp_path, validate_groups=held), FeatureStore.open(data.store), engine)
    assert not [name for name in built.positives.video_ids if name.startswith(("s00", "s01"))]
    assert built.positives.num_items == 14 * 5


def test_held_out_pairs_are_not_trained_on_and_what_they_connect_is_a_group(data: Data, tmp_path: Path) -> None:
    pairs = (("s00", "s00__1"), ("s00__1", "s00__2"), ("s01", "s01__2"), ("s02", "elsewhere"))
    held = write_csv(tmp_path / "held.csv", ("query", "video"), *pairs)
    with start("single") as engine:
        config = recipe(data, tmp_path, validate_pairs=held)
        built = build(config, FeatureStore.open(data.store), engine)
        validator = built.trainer.task.validator
    assert not [name for name in built.positives.video_ids if name.startswith(("s00", "s01"))]
    assert validator.video_ids == ["s00", "s00__1", "s00__2", "s01", "s01__2", "s02"]
    assert [list(validator.groups).count(number) for number in validator.groups] == [3, 3, 3, 2, 2, 1]
    with pytest.raises(UsageError, match="--validate-groups and --validate-pairs were given"):
        recipe(data, tmp_path, validate_pairs=held, validate_groups=held)


def test_what_is_odd_about_held_out_videos_is_said(data: Data, tmp_path: Path) -> None:
    rows = (("s00", "0"), ("s00__1", "0"), ("s00", "0"), ("elsewhere", "0"), ("ND", "1"))
    held = write_csv(tmp_path / "held.csv", ("video_id", "group"), *rows)
    with start("single") as engine:
        built = build(recipe(data, tmp_path, validate_groups=held), FeatureStore.open(data.store), engine)
        said = [str(finding) for finding in built.findings]
        assert said == [
            "videos listed more than once, counted once: 1 ('s00')",
            "names of labels in the place of ids, left out: 1 ('ND')",
            "videos of held.csv without features, left out: 1 ('elsewhere')",
        ]
        nowhere = write_csv(tmp_path / "nowhere.csv", ("video_id", "group"), ("x", "0"), ("y", "0"))
        with pytest.raises(UsageError, match=r"none of the 2 videos of \S+nowhere\.csv has features"):
            build(recipe(data, tmp_path, validate_groups=nowhere), FeatureStore.open(data.store), engine)
        with pytest.raises(UsageError, match="--patience 3 without held-out videos"):
            build(recipe(data, tmp_path, patience=3), FeatureStore.open(data.store), engine)
