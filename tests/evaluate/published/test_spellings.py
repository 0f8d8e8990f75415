"""Ids that stores, shards and similarity files spell otherwise than the annotation, in all that is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.baselines import Chance
from reelkin.evaluate.published.embedding_scores import MatrixScores
from reelkin.evaluate.published.examples import open_strips
from reelkin.evaluate.published.publishing import hash_of_ids
from reelkin.evaluate.published.svd import normal_id
from reelkin.evaluate.run import main
from reelkin.extract.store import write_store
from reelkin.shards.build import main as build
from tests.helpers.runs import run_here
from tests.helpers.videos import make_video


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def svd(*database: str) -> Annotation:
    labels = {"1.mp4": {"1": database[:1], "0": database[1:]}}
    return Annotation("SVD", "", ("1.mp4",), database, labels, judged_only=True, normal_id=normal_id)


def test_the_hash_of_the_database_is_of_the_videos_that_are_ranked() -> None:
    annotation = svd("2.mp4", "3.mp4")
    same = [["2", "3.mp4"], ["3.webm", "2.mp4"], ["2", "3", "stranger", "4"]]
    assert len({hash_of_ids(annotation, ids) for ids in same}) == 1
    assert hash_of_ids(annotation, ["2"]) != hash_of_ids(annotation, same[0])


def test_a_store_that_leaves_out_extensions_has_its_failures_shown(tmp_path: Path) -> None:
    (tmp_path / "truth.txt").write_text("1.mp4 2.mp4 1\n1.mp4 3.mp4 0\n")
    values = {"1": [1.0, 0.0], "2": [0.0, 1.0], "3": [1.0, 0.1]}
    content = {name: (np.array([row, row], np.float32), np.arange(2.0)) for name, row in values.items()}
    write_store(tmp_path / "store", content, {})
    (tmp_path / "videos").mkdir()
    for seed, name in enumerate(values):
        make_video(tmp_path / "videos" / f"{name}.mp4", seconds=2, fps=4, seed=seed)
    assert run_here(build, "--videos", tmp_path / "videos", "--output", tmp_path / "shards").code == ExitCode.OK
    given = ["--dataset", "SVD", "--annotations", tmp_path / "truth.txt", "--feature_path", tmp_path / "store"]
    ran = run_here(main, *given, "--shards", tmp_path / "shards", "--metric", "chamfer", "--output", tmp_path / "out")
    assert ran.code == ExitCode.OK and "1 of 1 queries, 2 of 2 videos" in ran.said
    text = (tmp_path / "out" / "report.html").read_text()
    assert text.count("data:image/png") == 2 and text.count("data:image/jpeg") == 3 * 2
    (row,) = json.loads((tmp_path / "out" / "results.json").read_text())["query_table"]
    assert (row["query"], row["ap"], row["best_wrong"], row["best_missed"]) == ("1.mp4", 0.5, "3.mp4", "2.mp4")
    strips = open_strips(tmp_path / "shards", svd("2.mp4"))
    assert len(strips("2.mp4")) == 2 and strips("9.mp4") == []


def test_chance_scores_the_pairs_that_the_system_scores() -> None:
    matrix = np.array([[1, np.nan, 2], [np.nan, np.nan, 3]], np.float32)
    scores = MatrixScores(["a", "b"], ["x", "y", "z"], matrix)
    for tied in (True, False):
        rows = np.stack(list(Chance(scores, tied).rows(["b", "a"])))
        np.testing.assert_array_equal(np.isnan(rows), np.isnan(matrix[::-1]))
        assert (len(set(rows[1, [0, 2]].tolist())) == 1) == tied
