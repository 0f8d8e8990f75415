"""The index folder: same answers as brute force, nothing unverified is read, other features are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import sha256_file
from reelkin.extract.pca import fit_pca
from reelkin.extract.store import FeatureStore, write_store
from reelkin.search import index as index_module
from reelkin.search.embed import FeaturesInMemory
from reelkin.search.index import SearchIndex, build_index
from reelkin.search.similarity import chamfer, cosine
from reelkin.train.checkpoint import load_model, save_model
from reelkin.train.embed import embed_frames, embed_videos, iter_embeddings, mean_pooled
from reelkin.train.models.tca import TCA, TCAConfig

DIM = 16
INFO: dict[str, Any] = {
    "encoder": {"name": "resnet50", "weights": "a.pth", "weights_sha256": "12", "weights_path": "/somewhere/a.pth"},
    "sampling": {"fps": 1.0},
    "decoder": "pyav",
}


def make_store(path: Path, seed: int = 0, info: dict[str, Any] = INFO) -> FeatureStore:
    rng = np.random.default_rng(seed)
    lengths = [3, 1, 12, 5, 5, 7, 2, 30]
    videos = {
        f"folder/v{i}": (rng.normal(size=(n, DIM)), np.arange(n, dtype=np.float64)) for i, n in enumerate(lengths)
    }
    videos["twin"] = videos["folder/v3"]
    return write_store(path, videos, info)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return make_store(tmp_path / "store")


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_model(TCA(TCAConfig(dim=DIM, num_heads=2, feedforward=32)), tmp_path / "model")
    return tmp_path / "model"


def test_run_folders_and_published_weights_are_models_too(
    store: FeatureStore, model_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "run").mkdir()
    model_folder.rename(tmp_path / "run" / "model")
    torch.manual_seed(1)
    published = TCA(TCAConfig(dim=DIM, num_heads=8, feedforward=32)).eval()
    torch.save(published.state_dict(), tmp_path / "model.pth")
    for name, model in (("run", load_model(tmp_path / "run" / "model")), ("model.pth", published)):
        index = build_index(store, tmp_path / f"index of {name}", tmp_path / name)
        expected = embed_videos(model, store, store.video_ids)
        np.testing.assert_allclose(index.embeddings, expected, atol=1e-6)
        (tmp_path / name).rename(tmp_path / f"{name} gone")
        np.testing.assert_allclose(embed_videos(index.model, store, store.video_ids), expected, atol=1e-6)


def test_hits_equal_a_full_sort_of_cosines(store: FeatureStore, model_folder: Path, tmp_path: Path) -> None:
    index = build_index(store, tmp_path / "index", model_folder)
    queries = embed_videos(index.model, store, store.video_ids)
    scores = cosine(queries, queries)
    for row, hits in enumerate(index.search(queries, 4)):
        expected = np.lexsort((np.arange(len(store)), -scores[row].round(5)))[:4]
        assert [hit.video_id for hit in hits] == [store.video_ids[i] for i in expected]
        np.testing.assert_allclose([hit.score for hit in hits], scores[row][expected], atol=1e-5)
    assert [hit.video_id for hit in index.search(queries[3:4], 2)[0]] == ["folder/v3", "twin"]


def test_more_hits_than_videos_gives_every_video_once(store: FeatureStore, tmp_path: Path) -> None:
    index = build_index(store, tmp_path / "index")
    (hits,) = index.search(mean_pooled(store, ["twin"]), 100)
    assert sorted(hit.video_id for hit in hits) == sorted(store.video_ids)


def test_reranking_orders_by_chamfer_of_frame_embeddings(
    store: FeatureStore, model_folder: Path, tmp_path: Path
) -> None:
    index = build_index(store, tmp_path / "index", model_folder)
    (query,) = embed_frames(index.model, store, ["folder/v7"])
    (candidates,) = index.search(embed_videos(index.model, store, ["folder/v7"]), 5)
    ranked = index.rerank(query, candidates)
    frames = dict(zip(store.video_ids, embed_frames(index.model, store, store.video_ids), strict=True))
    expected = [(chamfer(query, frames[hit.video_id]), hit.video_id) for hit in candidates]
    expected.sort(key=lambda entry: -entry[0])
    assert [hit.video_id for hit in ranked] == [video_id for _, video_id in expected]
    np.testing.assert_allclose([hit.score for hit in ranked], [score for score, _ in expected], atol=2e-3)
    assert ranked[0].video_id == "folder/v7" and ranked[0].score == pytest.approx(1.0, abs=2e-3)


def test_an_index_without_frames_says_so_when_asked_to_rerank(store: FeatureStore, tmp_path: Path) -> None:
    index = build_index(store, tmp_path / "index", frames=False)
    assert not (tmp_path / "index" / "frames").exists()
    (hits,) = index.search(mean_pooled(store, ["twin"]), 3)
    with pytest.raises(ReelkinError, match="no frame embeddings"):
        index.rerank(np.ones((1, DIM)), hits)


def test_batches_of_any_size_give_the_same_embeddings(store: FeatureStore, model_folder: Path) -> None:
    model = load_model(model_folder)
    alone = {e.video_id: e for e in iter_embeddings(model, store, store.video_ids, batch_frames=1)}
    together = {e.video_id: e for e in iter_embeddings(model, store, store.video_ids, batch_frames=10_000)}
    for video_id, embedding in alone.items():
        np.testing.assert_allclose(embedding.video, together[video_id].video, atol=1e-5)
        assert embedding.frames is not None and embedding.frames.shape == (store.num_frames(video_id), DIM)
        np.testing.assert_allclose(embedding.frames, together[video_id].frames, atol=1e-5)


def test_features_that_are_not_finite_are_refused_by_name() -> None:
    bad = FeaturesInMemory({"good": np.ones((2, 4)), "bad one": np.array([[1.0, np.inf, 0, 0]])})
    with pytest.raises(ReelkinError, match="'bad one' is not finite"):
        mean_pooled(bad, bad.video_ids)
    with pytest.raises(ReelkinError, match="'empty' has no frame"):
        mean_pooled(FeaturesInMemory({"empty": np.ones((0, 4))}), ["empty"])


FILES = ["index.faiss", "embeddings.safetensors", "videos.parquet", "model/model.safetensors", "frames/store.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_refused_before_anything_reads_it(
    name: str, store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import faiss

    build_index(store, tmp_path / "index")
    path = tmp_path / "index" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    monkeypatch.setattr(faiss, "read_index", lambda *_: pytest.fail("faiss read an unverified file"))
    with pytest.raises(ReelkinError, match=f"{name} has changed since the index was built"):
        SearchIndex.open(tmp_path / "index")


def test_a_missing_file_and_an_unfinished_index_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index")
    (tmp_path / "index" / "index.faiss").unlink()
    with pytest.raises(ReelkinError, match=r"index\.faiss is missing"):
        SearchIndex.open(tmp_path / "index")
    (tmp_path / "index" / "index.json").unlink()
    with pytest.raises(ReelkinError, match="no finished index"):
        SearchIndex.open(tmp_path / "index")


def test_paths_outside_the_index_are_refused(store: FeatureStore, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index")
    path = tmp_path / "index" / "index.json"
    info = json.loads(path.read_text())
    info["files"]["../store/store.json"] = {"bytes": 1, "sha256": "0"}
    path.write_text(json.dumps(info))
    with pytest.raises(ReelkinError, match="outside the index"):
        SearchIndex.open(tmp_path / "index")


def test_a_faiss_file_of_another_size_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    import faiss

    index = build_index(store, tmp_path / "index")
    other = faiss.IndexFlatIP(4)
    other.add(np.ones((3, 4), np.float32))
    faiss.write_index(other, str(tmp_path / "index" / "index.faiss"))
    with pytest.raises(ReelkinError, match="holds 3 x 4 values instead of 9 x 16"):
        index.search(np.ones((1, DIM)), 1)


def test_the_folder_depends_on_nothing_outside(store: FeatureStore, model_folder: Path, tmp_path: Path) -> None:
    expected = build_index(store, tmp_path / "index", model_folder).search(np.ones((1, DIM)), 3)
    (tmp_path / "index").rename(tmp_path / "moved")
    model_folder.rename(tmp_path / "gone")
    (tmp_path / "store").rename(tmp_path / "gone too")
    index = SearchIndex.open(tmp_path / "moved")
    assert index.search(np.ones((1, DIM)), 3) == expected
    assert index.model.name == "tca" and len(index.frame_store) == 9


def test_building_again_replaces_the_index(store: FeatureStore, model_folder: Path, tmp_path: Path) -> None:
    build_index(store, tmp_path / "index", model_folder)
    before = sha256_file(tmp_path / "index" / "index.json")
    again = build_index(make_store(tmp_path / "other", seed=1), tmp_path / "index", frames=False)
    assert again.model.name == "mean" and not again.info["frames"]
    assert sha256_file(tmp_path / "index" / "index.json") != before
    build_index(store, tmp_path / "index", model_folder)
    assert sha256_file(tmp_path / "index" / "index.json") == before


def test_a_folder_that_holds_something_else_is_left_alone(store: FeatureStore, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "frames").mkdir(parents=True)
    (photos / "frames" / "1.png").write_bytes(b"dear")
    for content in (None, "{}", '{"format": "of others"}'):
        if content is not None:
            (photos / "index.json").write_text(content)
        before = sorted(path.name for path in photos.rglob("*"))
        with pytest.raises(UsageError, match="is not empty and holds no index"):
            build_index(store, photos)
        assert sorted(path.name for path in photos.rglob("*")) == before
        assert (photos / "frames" / "1.png").read_bytes() == b"dear"
    with pytest.raises(UsageError, match="is a file"):
        build_index(store, photos / "index.json")
    (tmp_path / "empty").mkdir()
    assert len(build_index(store, tmp_path / "empty")) == 9


def test_an_unfinished_index_is_built_anew(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(index_module, "_write_vectors", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_index(store, tmp_path / "index")
    with pytest.raises(ReelkinError, match="no finished index"):
        SearchIndex.open(tmp_path / "index")
    assert len(build_index(store, tmp_path / "index")) == 9
    assert not (tmp_path / "index" / index_module.UNFINISHED).exists()


def test_a_model_of_another_width_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    save_model(TCA(TCAConfig(dim=8, num_heads=2, feedforward=8)), tmp_path / "narrow")
    with pytest.raises(ReelkinError, match="takes features of 8 dimensions, these have 16"):
        build_index(store, tmp_path / "index", tmp_path / "narrow")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"frame encoder": {**INFO["encoder"], "weights_sha256": "99"}}, "encoder weights_sha256 was '99', is '12'"),
        ({"frame encoder": INFO["encoder"], "PCA": "77"}, "PCA was '77', is 'none'"),
    ],
)
def test_a_model_trained_on_other_features_is_refused(
    facts: dict[str, Any], message: str, store: FeatureStore, tmp_path: Path
) -> None:
    model = TCA(TCAConfig(dim=DIM, num_heads=2, feedforward=8))
    save_model(model, tmp_path / "good", {"frame encoder": INFO["encoder"], "PCA": "none"})
    build_index(store, tmp_path / "index", tmp_path / "good")
    save_model(model, tmp_path / "other", facts)
    with pytest.raises(ReelkinError, match=message):
        build_index(store, tmp_path / "index", tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": {**INFO["encoder"], "weights_sha256": "34"}}, r"encoder: the index has .*'12'.*'34'"),
        ({"sampling": {"fps": 2.0}}, r"sampling: the index has fps 1\.0, the query has fps 2\.0"),
        ({"pca": {"sha256": "56"}}, r"pca: the index has None, the query has sha256 '56'"),
        ({"dim": 8}, "dim: the index has 16, the query has 8"),
    ],
)
def test_features_made_otherwise_are_refused_with_both_sides_named(
    change: dict[str, Any], message: str, store: FeatureStore, tmp_path: Path
) -> None:
    index = build_index(store, tmp_path / "index")
    index.check_features(store.info, "the query")
    moved = {**store.info, "encoder": {**INFO["encoder"], "weights_path": "/elsewhere/b.pth", "weights": "b.pth"}}
    index.check_features(moved, "the query")
    with pytest.raises(ReelkinError, match=message):
        index.check_features({**store.info, **change}, "the query")


def test_the_pca_must_be_the_stores_and_is_copied(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(50, DIM))
    pca = tmp_path / "store" / "its pca.safetensors"
    fit_pca(samples, 8).save(pca)
    store = make_store(tmp_path / "store", info={**INFO, "pca": {"sha256": sha256_file(pca), "file": pca.name}})
    index = build_index(store, tmp_path / "index")
    assert sha256_file(tmp_path / "index" / index.info["features"]["pca"]["file"]) == sha256_file(pca)
    fit_pca(samples, 4).save(pca)
    with pytest.raises(ReelkinError, match="not the PCA that the features were made with"):
        build_index(store, tmp_path / "index")


def test_a_store_without_videos_is_refused(store: FeatureStore, tmp_path: Path) -> None:
    store.video_ids.clear()
    with pytest.raises(ReelkinError, match="nothing to index"):
        build_index(store, tmp_path / "index")
