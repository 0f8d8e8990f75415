"""outcome.json tells how the last run ended that began, and is not lost to a start that fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import h5py
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError
from reelkin.train.data.sampling import rank_slice
from reelkin.train.data.sources import open_features
from reelkin.train.recipes.tca import TcaRecipe, build
from reelkin.train.running.loop import Trainer
from reelkin.train.running.run_folder import RunFolder
from reelkin.train.session import RECIPES, run

from .conftest import RUN, Data, Launch, scene_features


def outcome(folder: Path) -> dict:
    return dict(json.loads((folder / "outcome.json").read_text()))


def test_a_failed_start_leaves_the_outcome_of_a_finished_run(tmp_path: Path) -> None:
    config = TcaRecipe(features=tmp_path / "nowhere", output=tmp_path / "run", backend="single")
    with pytest.raises(ReelkinError, match="do not exist"):
        run(RECIPES["tca"], config)
    assert outcome(tmp_path / "run")["exit_code"] == 2  # there was none before
    RunFolder(tmp_path / "run").write_outcome(0, "complete", steps=7)
    with pytest.raises(ReelkinError, match="do not exist"):
        run(RECIPES["tca"], config)
    assert outcome(tmp_path / "run") == {"exit_code": 0, "reason": "complete", "steps": 7}


def test_a_run_that_began_writes_how_it_failed(tmp_path: Path) -> None:
    RunFolder(tmp_path).write_outcome(0, "complete")
    folder = RunFolder(tmp_path)
    folder.announce({"config": {}})
    assert outcome(tmp_path) == {"exit_code": None, "reason": "running"}
    folder.write_failure(1, "boom")
    assert outcome(tmp_path) == {"exit_code": 1, "reason": "boom"}


def test_of_other_ranks_the_first_word_stands_and_a_word_of_this_rank_counts_more(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.announce({"config": {}})
    folder.note_failure(2, "rank 3 left with UsageError: no")
    folder.note_failure(1, "rank 1 left with what came of it")
    folder.write_outcome(None, "running")
    assert outcome(tmp_path) == {"exit_code": 2, "reason": "rank 3 left with UsageError: no"}
    folder.write_failure(1, "its own")
    folder.note_failure(2, "too late")
    assert outcome(tmp_path) == {"exit_code": 1, "reason": "its own"}


def read_by_the_last_of_two_ranks_alone(config: TcaRecipe) -> tuple[str, int]:
    """A video, and the step (from 0, at least 2) in which rank 1 of 2 reads it, before rank 0 ever does."""
    with start("single") as engine:
        built = build(config, open_features(config.features), engine)
        builder = built.trainer.task.builder  # type: ignore[attr-defined]
        earlier: set[int] = set()
        for step in range(built.trainer.steps):
            batch = builder.build(step)
            first, last = (
                {int(video) for view in (batch.anchors, batch.positives) for video in view.videos[rows]}
                for rows in (rank_slice(config.batch_size, rank, 2) for rank in range(2))
            )
            if step >= 2 and (alone := last - first - earlier):
                return built.positives.video_ids[min(alone)], step
            earlier |= first | last
    raise AssertionError("no such video; take another seed")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "horovod", "mpi"])
def test_what_one_rank_alone_cannot_read_stands_in_the_outcome(
    data: Data, tmp_path: Path, launch: Launch, backend: str
) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for name, frames in scene_features().items():
            file.create_dataset(name, data=frames, chunks=frames.shape, fletcher32=True)
    config = TcaRecipe(
        features=tmp_path / "f.h5", copies=data.copies, output=tmp_path / "run", steps=20, batch_size=4,
        feedforward=32, num_workers=0, threads=1, checkpoint_every=1,
    )  # fmt: skip
    video, step = read_by_the_last_of_two_ranks_alone(config)
    with h5py.File(tmp_path / "f.h5") as file:
        place = file[video].id.get_chunk_info(0).byte_offset
    with open(tmp_path / "f.h5", "r+b") as raw:  # a block of the disk goes bad
        raw.seek(place)
        raw.write(b"\xff" * 64)
    names = ("features", "copies", "output", "steps", "batch_size", "feedforward", "num_workers", "threads",
             "checkpoint_every")  # fmt: skip
    words = [str(word) for name in names for word in (f"--{name}", getattr(config, name))]
    failed = launch(backend, RUN, *words)
    assert failed.returncode != 0
    found = outcome(tmp_path / "run")
    assert found["exit_code"] == 1, failed.output[-4000:]
    why = rf"rank 1 \(host \S+, pid \d+\) left with ReelkinError: '{video}' cannot be read from \S+f.h5 "
    assert re.search(why, found["reason"]), found
    assert (tmp_path / "run" / "LAST").read_text().strip() == f"step-{step:06d}"


@pytest.mark.parametrize("error", [None, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nMore")])
def test_memory_that_runs_out_is_said_in_a_line_with_what_to_lower(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    config = TcaRecipe(features=data.store, copies=data.copies, output=tmp_path, queue_size=1000 if error else 10**13)
    if error:

        def fail(*arguments: object) -> None:
            raise error

        monkeypatch.setattr(Trainer, "train", fail)
    with pytest.raises(ReelkinError, match=r"^out of memory \(.*allocate.*\)\. Lower the batch size, .*queue"):
        run(RECIPES["tca"], config)
    assert outcome(tmp_path)["exit_code"] == 1 and "out of memory" in outcome(tmp_path)["reason"]
