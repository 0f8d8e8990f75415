"""Where scores come from: flags, stores and HDF5 files in any spelling of ids, models that fit and that do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.benchmarks import read_annotation
from reelkin.evaluate.published.embedding_scores import MatrixScores
from reelkin.evaluate.published.scores import ScoreSettings, open_videos
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.published.similarity_file import read_similarities
from reelkin.extract.describe import COMPARED
from reelkin.extract.store import StoreRow, write_store
from reelkin.train.checkpoint import save_model
from reelkin.train.models.tca import TCA, TCAConfig

DIM = 16
ENCODER = {key: f"a {key}" for key in COMPARED} | {"name": "net"}
PCA = {"sha256": "1" * 64, "file": "pca.safetensors"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def features(ids: list[str]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(int(rng.integers(1, 9)), DIM)).astype(np.float32) for name in ids}


def a_store(folder: Path, ids: list[str], info: dict[str, Any] | None = None, rejects: tuple[str, ...] = ()) -> Path:
    content = {name: (each, np.arange(len(each), dtype=float)) for name, each in features(ids).items()}
    rows = [StoreRow.rejected(name, "no-frames", "it has none") for name in rejects]  # type: ignore[arg-type]
    write_store(folder, content, {"encoder": ENCODER, "pca": PCA} if info is None else info, rejects=rows)
    return folder


def a_model(folder: Path, dim: int = DIM, **facts: Any) -> Path:
    torch.manual_seed(0)
    model = TCA(TCAConfig(dim=dim, num_heads=2, feedforward=32, init="published"))
    save_model(model, folder, {"frame encoder": ENCODER, "PCA": PCA["sha256"]} | facts)
    return folder


def pairs(folder: Path) -> Annotation:
    path = folder / "pairs.csv"
    path.write_text("query,video,label\nq1,a,1\nq1,b,0\nq2,b,1\nq2,c,0\nq3,a,1\n")
    return read_annotation("PAIRS", path)


def opened(annotation: Annotation, **settings: Any) -> MatrixScores:
    with start(device="cpu") as engine:
        scores = open_videos(ScoreSettings(**settings), annotation).score(engine)
    assert scores is not None
    return scores


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either --similarities FILE, or --feature_path"),
        ({"similarities": Path("a"), "feature_path": Path("b")}, "either --similarities FILE, or --feature_path"),
        ({"similarities": Path("a"), "model_path": Path("m")}, "--model_path goes with --feature_path"),
        ({"similarities": Path("a"), "metric": "chamfer"}, "--metric chamfer goes with --feature_path"),
        ({"feature_path": Path("b"), "padding_size": -1}, "--padding_size is -1"),
        ({"feature_path": Path("b"), "max_memory_gb": 0}, "--max-memory-gb is 0"),
        ({"feature_path": Path("b"), "max_memory_gb": float("nan")}, "--max-memory-gb is nan"),
        ({"feature_path": Path("b"), "max_memory_gb": float("inf")}, "--max-memory-gb is inf"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ScoreSettings(**settings)


def test_a_store_and_a_model_are_scored_with_what_made_them_on_record(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store", ["q1", "q2", "a", "b", "c", "z"], rejects=("q3",))
    model = a_model(tmp_path / "model")
    annotation = pairs(tmp_path)
    scores = opened(
        annotation, feature_path=store, model_path=model, metric="chamfer", pca_components=DIM, num_layers=1,
        output_dim=DIM, num_clusters=256, padding_size=300,
    )  # fmt: skip
    assert isinstance(scores, MatrixScores)
    assert sorted(scores.queries) == ["q1", "q2"]
    assert scores.facts["metric"] == "chamfer"
    assert scores.facts["features"]["encoder"] == ENCODER and scores.facts["features"]["pca"] == PCA
    assert scores.facts["model"]["aggregator"] == "tca" and len(scores.facts["model"]["sha256"]) == 64
    assert [problem.text for problem in scores.problems] == [
        "videos of the features that cannot be used (no-frames): 1: q3"
    ]
    outcome = evaluate_scores(annotation, scores)
    assert outcome.coverage.startswith("2 of 3 queries")


def test_hdf5_features_without_a_model_are_scored(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "features.hdf5"
    content = features(["q1", "q2", "q3", "a", "b", "c"])
    with h5py.File(path, "w") as file:
        for name, each in content.items():
            file.create_dataset(name, data=each)
    scores = opened(pairs(tmp_path), feature_path=path)
    means = {name: each.mean(0) / np.linalg.norm(each.mean(0)) for name, each in content.items()}
    expected = [[means[query] @ means[video] for video in scores.database] for query in scores.queries]
    np.testing.assert_allclose(np.stack(list(scores.rows(scores.queries))), expected, atol=1e-6)


def test_ids_of_another_spelling_are_found(tmp_path: Path) -> None:
    annotation = read_annotation("CC_WEB_VIDEO")
    names = [annotation.queries[0], *list(annotation.database or ())[:5]]
    spelled = [name.split("/", 1)[-1] if "/" in name else f"{name.split('_')[0]}/{name}" for name in names]
    assert {annotation.normal_id(name) for name in spelled} == set(names) and not set(spelled) & set(names)
    scores = opened(annotation, feature_path=a_store(tmp_path / "store", sorted(set(spelled))))
    assert scores.queries == [spelled[0]] and set(spelled[1:]) <= set(scores.database)


def test_a_similarity_file_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "similarities.json"
    path.write_text(json.dumps({"q1": {"a": 0.9, "b": 0.1}, "q2": {"b": 0.2, "c": 0.7}}))
    figures = evaluate_scores(pairs(tmp_path), read_similarities(path)).figures
    assert 0 < figures["mAP"] <= 1  # type: ignore[operator]


@pytest.mark.parametrize(
    ("info", "model", "flags", "said"),
    [
        ({"encoder": ENCODER | {"dim": "other"}, "pca": PCA}, {}, {}, "encoder dim was 'a dim', is 'other'"),
        ({"encoder": ENCODER, "pca": PCA | {"sha256": "2" * 64}}, {}, {}, "PCA was '1+', is '2+'"),
        ({"encoder": ENCODER, "pca": None}, {}, {}, "PCA was '1+', is 'none'"),
        (None, {"dim": 32}, {}, "takes features of 32 dimensions, these have 16"),
        (None, {}, {"pca_components": 1024}, "16 dimensions, and .* is 1024"),
        (None, {}, {"num_layers": 2}, "--num_layers is 2, and the model .* has 1"),
        (None, {}, {"output_dim": 1024}, "--output_dim is 1024, and the model .* has 16"),
    ],
)
def test_features_of_another_encoder_or_pca_and_other_models_are_refused_with_both_named(
    tmp_path: Path, info: dict[str, Any] | None, model: dict[str, Any], flags: dict[str, Any], said: str
) -> None:
    store = a_store(tmp_path / "store", ["q1", "a"], info)
    folder = a_model(tmp_path / "model", **model)
    with pytest.raises(ReelkinError, match=said):
        opened(pairs(tmp_path), feature_path=store, model_path=folder, **flags)


def test_features_of_other_videos_are_refused_with_an_id_of_each_side(tmp_path: Path) -> None:
    store = a_store(tmp_path / "store", ["x1", "x2"])
    with pytest.raises(ReelkinError, match="none of the queries of PAIRS has features.*'x1', in the annotation: 'q1'"):
        opened(pairs(tmp_path), feature_path=store)


@pytest.mark.parametrize(("flag", "why"), [("random_sampling", "drawn anew"), ("use_comparator", "never released")])
def test_published_flags_that_cannot_be_followed_say_why(flag: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag}: .*{why}"):
        ScoreSettings(feature_path=Path("store"), **{flag: True})
