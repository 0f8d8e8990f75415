"""Features that are not finite stop training before they reach weights, queue or checkpoint, and are named."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError
from reelkin.train.data.sources import open_features
from reelkin.train.recipes.tca import TcaRecipe, build

from .conftest import RUN, Data, Launch, scene_features, write_csv


@pytest.mark.parametrize("role", ["pair", "negative"])
def test_nan_in_an_hdf5_file_stops_the_step_that_reads_it(tmp_path: Path, role: str) -> None:
    features = scene_features(scenes=4, copies=1)
    bad = "s02__1" if role == "pair" else "background"
    features["background"] = features.pop("s03")
    features["other"] = features.pop("s03__1")
    features[bad] = features[bad].copy()
    features[bad][-1, 3] = np.nan
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, frames in features.items():
            file.create_dataset(name, data=frames)
    pairs = write_csv(tmp_path / "p.csv", ("query", "video"), *((f"s{n:02d}", f"s{n:02d}__1") for n in range(3)))
    (tmp_path / "negatives.txt").write_text("background\nother\n")
    config = TcaRecipe(
        features=tmp_path / "f.h5", output=tmp_path / "run", pairs=pairs, negatives=tmp_path / "negatives.txt",
        steps=8, batch_size=1, num_heads=4, feedforward=32, negatives_per_anchor=1, queue_positives=False,
        batch_negatives=False, checkpoint_every=1, feature_edits="none", swap_pairs=False,
    )  # fmt: skip
    with start("single") as engine:
        built = build(config, open_features(config.features), engine)
        builder = built.trainer.task.builder  # type: ignore[attr-defined]
        seen = [bad in {built.positives.video_ids[video] for view in (batch.anchors, batch.positives, batch.negatives)
                        for video in view.videos.tolist()} for batch in map(builder.build, range(8))]  # fmt: skip
        assert any(seen)
        step = seen.index(True)
        with pytest.raises(ReelkinError, match=rf"the loss of step {step + 1} is not finite.*: {bad} "):
            built.trainer.train()
        assert all(torch.isfinite(value).all() for value in built.trainer.task.model.state_dict().values())
    folders = sorted(path.name for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    assert folders == [f"step-{number:06d}" for number in range(1, step + 1)][-config.keep_checkpoints :]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_of_two_ranks_only_the_one_that_read_it_is_named(data: Data, tmp_path: Path, launch: Launch) -> None:
    features = scene_features()
    # 40 anchors of 80: it is sure to be read in the first steps. Both ranks' losses are spoilt by its key.
    features["s03__1"][-1, 3] = np.nan
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, frames in features.items():
            file.create_dataset(name, data=frames)
    given = {"features": tmp_path / "f.h5", "copies": data.copies, "output": tmp_path / "run", "steps": 8,
             "batch-size": 40, "feedforward": 32, "threads": 1}  # fmt: skip
    failed = launch("torch", RUN, *(str(word) for name, value in given.items() for word in (f"--{name}", value)))
    assert failed.returncode != 0
    reason = json.loads((tmp_path / "run" / "outcome.json").read_text())["reason"]
    named = reason.partition("Videos concerned: ")[2].partition(". Look")[0].split(", ")
    assert {name.partition(" ")[0] for name in named} == {"s03__1"}, reason
