"""Clusters of videos without labels, and the command that makes them."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.metrics import adjusted_rand_score

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.extract.store import write_store
from reelkin.train.data.clusters import first_neighbour_clusters
from reelkin.train.data.labels import read_groups
from reelkin.train.data.positives import match_labels
from reelkin.train.pseudo_labelling import PseudoLabelConfig, make_pseudo_labels
from reelkin.train.pseudo_labels import main

from .conftest import ROOT, scene_features


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def written_out(rows: np.ndarray, floor: float) -> np.ndarray:
    """The rule as its paper states it: an edge if one is the other's first neighbour, or both have the same one."""
    similarity = rows.astype(np.float64) @ rows.T.astype(np.float64)
    np.fill_diagonal(similarity, -2)
    count = len(rows)
    first = [int(row.argmax()) if row.max() >= floor else None for row in similarity]
    edges = [
        (one, two)
        for one in range(count)
        for two in range(count)
        if first[one] == two or first[two] == one or (first[one] is not None and first[one] == first[two])
    ]
    ends = np.array(edges).reshape(-1, 2).T
    return connected_components(coo_array((np.ones(ends.shape[1]), ends), shape=(count, count)), directed=False)[1]


@pytest.mark.parametrize("floor", [-1.0, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_what_first_neighbours_connect(seed: int, floor: float) -> None:
    rows = unit(np.random.default_rng(seed).standard_normal((80, 5)))
    found = first_neighbour_clusters(rows, floor, tile_bytes=4 * 9 * 9)
    assert adjusted_rand_score(written_out(rows, floor), found) == 1.0
    assert np.array_equal(np.unique(found, return_index=True)[1].argsort(), np.arange(found.max() + 1))


def test_further_rounds_merge_the_clusters_means() -> None:
    rng = np.random.default_rng(3)
    rows = unit(np.repeat(rng.standard_normal((8, 16)), 12, axis=0) + 0.3 * rng.standard_normal((96, 16)))
    once, twice = (first_neighbour_clusters(rows, 0.7, rounds) for rounds in (1, 2))
    means = unit(np.stack([rows[once == cluster].mean(axis=0) for cluster in range(once.max() + 1)]))
    assert adjusted_rand_score(written_out(means, 0.7)[once], twice) == 1.0
    assert twice.max() < once.max()
    assert adjusted_rand_score(np.repeat(np.arange(8), 12), first_neighbour_clusters(rows, 0.7, 20)) == 1.0


def test_a_long_chain_is_one_cluster() -> None:
    angle = np.cumsum(0.2 * 0.93 ** np.arange(40))  # each one's nearest neighbour is the next
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    order = np.random.default_rng(0).permutation(40)
    assert first_neighbour_clusters(rows[order], -1.0).max() == 0
    # The gaps are 0.2 * 0.93 ** k; the first nine of them are wider than 0.1.
    assert first_neighbour_clusters(rows[order], float(np.cos(0.1))).max() == 9


def store_of(path: Path, features: dict[str, np.ndarray]) -> Path:
    write_store(path, {name: (each, np.arange(len(each)) * 1.0) for name, each in features.items()}, {})
    return path


def test_the_command_writes_groups_that_training_takes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    features = {}
    for scene in range(5):
        base = rng.standard_normal((6, 32))
        for copy in range(3):
            features[f"s{scene}c{copy}"] = unit(base + 0.2 * rng.standard_normal(base.shape))
    features["alone"] = unit(rng.standard_normal((4, 32)))
    store = store_of(tmp_path / "store", features)
    words = [sys.executable, str(ROOT / "train" / "pseudo_labels.py")]
    output = tmp_path / "clusters.csv"
    done = subprocess.run(
        [*words, "--features", str(store), "--output", str(output)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "15 of 16 videos in 5 clusters, the largest of 3" in done.stderr
    with open(output, newline="") as file:
        rows = {row["video_id"]: row["group"] for row in csv.DictReader(file)}
    assert set(rows) == set(features) and rows["alone"] == ""
    positives = match_labels(list(features), read_groups(output))
    groups = dict(zip(positives.video_ids, positives.groups[:, 0].tolist(), strict=True))
    for one in features:
        for two in features:
            assert (groups[one] == groups[two]) == (one[:2] == two[:2])


def test_without_flags_a_line_that_runs_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "train/pseudo_labels.py --features store --output clusters.csv" in capsys.readouterr().err


def test_nothing_alike_is_an_error_that_names_the_flag(tmp_path: Path) -> None:
    store = store_of(tmp_path / "store", scene_features(scenes=3, copies=0))
    with pytest.raises(ReelkinError, match="no two of the 3 videos have a similarity of --min-similarity 0.999"):
        make_pseudo_labels(PseudoLabelConfig(features=store, output=tmp_path / "c.csv", min_similarity=0.999))
    assert not (tmp_path / "c.csv").exists()
    one = store_of(tmp_path / "one", scene_features(scenes=1, copies=0))
    with pytest.raises(UsageError, match="holds 1 videos"):
        make_pseudo_labels(PseudoLabelConfig(features=one, output=tmp_path / "c.csv"))
    with pytest.raises(UsageError, match="--min-similarity is 2"):
        PseudoLabelConfig(features=one, output=tmp_path / "c.csv", min_similarity=2)
