"""Similarities by a model in blocks and over ranks, against one video at a time in plain numpy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.published.embedding_scores import MatrixScores, Metric, published_similarity, score_embeddings
from reelkin.evaluate.published.similarity_file import read_similarities
from reelkin.extract.store import write_store
from reelkin.search.embed import FeaturesInMemory
from reelkin.train.models.aggregators import MeanPooling, MeanPoolingConfig
from reelkin.train.models.tca import TCA, TCAConfig
from tests.train.conftest import BIN, command_for

DIM = 16
METRICS: tuple[Metric, ...] = ("cosine", "euclidean", "euclidean-legacy", "chamfer", "symmetric-chamfer")
WORKER = Path(__file__).parent / "workers" / "score_ranks.py"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def made(seed: int = 0, queries: int = 5, videos: int = 20, longest: int = 12) -> dict[str, np.ndarray]:
    """Random features of q0.. and v0.., in a mixed order."""
    rng = np.random.default_rng(seed)
    names = [f"q{n}" for n in range(queries)] + [f"v{n}" for n in range(videos)]
    return {
        names[place]: rng.normal(size=(int(rng.integers(1, longest + 1)), DIM)).astype(np.float32)
        for place in rng.permutation(len(names))
    }


def a_model() -> TCA:
    torch.manual_seed(0)
    return TCA(TCAConfig(dim=DIM, num_heads=2, feedforward=32, init="published")).eval()


def split(features: dict[str, np.ndarray]) -> tuple[list[str], list[str]]:
    return [name for name in features if name.startswith("q")], list(features)


def scored(features: dict[str, np.ndarray], metric: Metric = "cosine", **settings: int) -> MatrixScores:
    queries, database = split(features)
    with start(device="cpu") as engine:
        scores = score_embeddings(
            FeaturesInMemory(features), a_model(), queries, database, engine=engine, metric=metric, **settings
        )
    assert scores is not None
    return scores


def one_by_one(features: dict[str, np.ndarray], metric: Metric) -> np.ndarray:
    """The same matrix, a pair at a time."""
    model = a_model()
    videos, frames = {}, {}
    for name, each in features.items():
        batch, length = torch.from_numpy(each)[None], torch.tensor([len(each)])
        with torch.inference_mode():
            videos[name] = model(batch, length)[0].numpy().astype(np.float64)
            frames[name] = model.encode(batch, length)[0].numpy().astype(np.float64)

    def chamfer(q: str, v: str) -> float:
        return float(np.mean([max(float(a @ b) for b in frames[v]) for a in frames[q]]))

    of_pair: dict[str, Callable[[str, str], float]] = {
        "cosine": lambda q, v: float(videos[q] @ videos[v]),
        "euclidean": lambda q, v: -float(np.linalg.norm(videos[q] - videos[v])),
        "chamfer": chamfer,
        "symmetric-chamfer": lambda q, v: (chamfer(q, v) + chamfer(v, q)) / 2,
    }
    queries, database = split(features)
    if metric != "euclidean-legacy":
        return np.array([[of_pair[metric](q, v) for v in database] for q in queries])
    distances = np.array([[-of_pair["euclidean"](q, v) for v in database] for q in queries])
    return np.array([[1 - d / max(column) for d, column in zip(row, distances.T, strict=True)] for row in distances])


@pytest.mark.parametrize("max_bytes", [2000, 20_000, 10**8])
@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_in_blocks_of_any_size_equals_one_pair_at_a_time(metric: Metric, max_bytes: int) -> None:
    features = made()
    scores = scored(features, metric, max_bytes=max_bytes)
    assert (scores.queries, scores.database) == split(features)
    assert scores.matrix.dtype == np.float32 and not scores.problems
    np.testing.assert_allclose(scores.matrix, one_by_one(features, metric), atol=2e-6)
    np.testing.assert_array_equal(next(scores.rows(["q3"])), scores.matrix[scores.queries.index("q3")])


def test_the_database_is_walked_again_where_the_queries_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    features = made(1, queries=12)
    with caplog.at_level("INFO", "reelkin.evaluate"):
        tight = scored(features, "chamfer", max_bytes=8000)
    assert "is walked" in caplog.text
    np.testing.assert_allclose(tight.matrix, scored(features, "chamfer").matrix, atol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "symmetric-chamfer"])
def test_a_video_far_longer_than_a_block_is_scored_whole(metric: Metric) -> None:
    features = made(2)
    features["v4"] = np.random.default_rng(5).normal(size=(700, DIM)).astype(np.float32)
    features["q1"] = features["v4"][100:400]
    scores = scored(features, metric, max_bytes=40_000)
    np.testing.assert_allclose(scores.matrix, one_by_one(features, metric), atol=2e-6)


@pytest.mark.parametrize("metric", ["cosine", "chamfer"])
def test_videos_without_frames_and_with_nan_are_left_out_and_named(metric: Metric) -> None:
    features = made(3)
    whole = one_by_one(features, metric)
    queries, database = split(features)
    features["q2"] = features["q2"][:0]
    features["v5"] = features["v5"][:0]
    features["v6"] = features["v6"].copy()
    features["v6"][-1, 3] = np.nan
    features["q0"] = features["q0"] * np.float32(np.inf)
    bad = {"q0", "q2", "v5", "v6"}
    scores = scored(features, metric, max_bytes=20_000)
    assert scores.queries == [query for query in queries if query not in bad]
    assert scores.database == [video for video in database if video not in bad]
    rows, columns = [queries.index(q) for q in scores.queries], [database.index(v) for v in scores.database]
    np.testing.assert_allclose(scores.matrix, whole[np.ix_(rows, columns)], atol=2e-6)
    said = sorted(problem.text for problem in scores.problems)
    assert said == [
        "videos whose features are not finite; left out: 2: q0, v6",
        "videos without a frame; left out: 2: q2, v5",
    ]


def test_nothing_that_can_be_scored_is_an_error() -> None:
    features = made(4)
    for name in features:
        if name.startswith("q"):
            features[name] = features[name][:0]
    with pytest.raises(ReelkinError, match="none of the queries has features that can be used: videos without a frame"):
        scored(features)


def test_a_model_whose_values_are_not_finite_is_an_error() -> None:
    model = a_model()
    with torch.no_grad():
        next(model.parameters())[0] = torch.nan
    features = made()
    with start(device="cpu") as engine, pytest.raises(ReelkinError, match="is not finite"):
        score_embeddings(FeaturesInMemory(features), model, *split(features), engine=engine)


def test_longer_videos_are_cut_to_the_same_part_each_time_and_named() -> None:
    features = made(6, longest=30)
    scores = scored(features, "chamfer", max_frames=8)
    long = [name for name, each in features.items() if len(each) > 8]
    assert 0 < len(long) < len(features)
    [problem] = scores.problems
    assert (problem.kind, problem.count) == ("videos longer than --padding-size, of which a part was taken", len(long))
    np.testing.assert_array_equal(scores.matrix, scored(features, "chamfer", max_frames=8).matrix)
    # A query of 8 frames or less is compared with some window of 8 frames of each video.
    query = next(name for name, each in features.items() if name.startswith("q") and len(each) <= 8)
    row = dict(zip(scores.database, next(scores.rows([query])), strict=True))
    video = long[0]
    windows = [
        scored({query: features[query], video: features[video][begin : begin + 8]}, "chamfer").matrix[0, 1]
        for begin in range(len(features[video]) - 7)
    ]
    assert min(abs(row[video] - value) for value in windows) < 2e-6


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "symmetric-chamfer"])
def test_copies_of_a_video_tie_whatever_block_they_stand_in(metric: Metric) -> None:
    features = made(9, videos=40)
    for copy in range(0, 40, 2):
        features[f"v{copy}"] = features["v1"]
    scores = scored(features, metric, max_bytes=20_000)
    # sums of float32 differ by block on some machines: what makes copies tie is that all are rounded
    np.testing.assert_array_equal(scores.matrix, np.round(scores.matrix, 6))
    columns = [scores.database.index(f"v{number}") for number in (*range(0, 40, 2), 1)]
    np.testing.assert_array_equal(scores.matrix[:, columns], scores.matrix[:, columns[:1]].repeat(21, axis=1))


def test_the_published_distance_ranks_wrongly_as_described() -> None:
    # q0 is nearer to A (0.374) than to B (0.894), and is said to be more like B: each video has a scale of its own.
    distances = np.array([[0.374, 0.894], [0.3896, 1.4146]], dtype=np.float32)
    found = published_similarity(distances)
    np.testing.assert_allclose(found[0], [0.040, 0.368], atol=5e-4)
    np.testing.assert_array_equal(published_similarity(np.zeros((2, 1), dtype=np.float32)), 1)


def test_a_matrix_beyond_the_bound_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="5 x 25 similarities need 5e-07 GB, over half of --max-memory-gb 5e-07"):
        scored(made(), max_bytes=500)


def test_without_a_model_features_are_pooled() -> None:
    features = made(7)
    queries, database = split(features)
    with start(device="cpu") as engine:
        source, model = FeaturesInMemory(features), MeanPooling(MeanPoolingConfig(dim=DIM))
        scores = score_embeddings(source, model, queries, database, engine=engine)
    assert scores is not None
    means = {name: each.mean(0) / np.linalg.norm(each.mean(0)) for name, each in features.items()}
    np.testing.assert_allclose(scores.matrix, [[means[q] @ means[v] for v in database] for q in queries], atol=1e-6)


@pytest.mark.parametrize("metric", ["chamfer", "symmetric-chamfer"])
def test_frame_metrics_put_each_video_through_the_model_once(metric: Metric, monkeypatch: pytest.MonkeyPatch) -> None:
    features, seen = made(10), []
    own = TCA._seen
    monkeypatch.setattr(TCA, "_seen", lambda self, batch, *rest: seen.append(len(batch)) or own(self, batch, *rest))
    monkeypatch.setattr(TCA, "_video", lambda *_: pytest.fail("video embeddings that nobody asked for"))
    scored(features, metric)
    queries, database = split(features)
    assert sum(seen) == len(queries) + len(database)


PEAK = """
import sys
import numpy as np, torch
from reelkin.core.engine import start
from reelkin.evaluate.published.embedding_scores import score_embeddings
from reelkin.train.models.aggregators import MeanPooling, MeanPoolingConfig
torch.set_num_threads(1)
class Made:
    dim, video_ids = 128, [f"v{n}" for n in range(1500)]
    def num_frames(self, video_id): return 20 + int(video_id[1:]) % 40
    def features(self, video_id):
        return np.full((self.num_frames(video_id), 128), 1.0, np.float32) + np.float32(hash(video_id) % 7)
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
source, model = Made(), MeanPooling(MeanPoolingConfig(dim=128))
with start(device="cpu") as engine:
    for metric in ("cosine", "symmetric-chamfer"):
        few = source.video_ids[:8]
        score_embeddings(source, model, few, few, engine=engine, metric=metric)
        open("/proc/self/clear_refs", "w").write("5")
        before = status("VmRSS")
        score_embeddings(source, model, few, source.video_ids, engine=engine, metric=metric, max_bytes=10 << 20)
        print(status("VmHWM") - before)
"""


def test_memory_stays_within_the_bound() -> None:
    # The features of all videos would fill 30 MB, their frame embeddings as much again.
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    peaks = [float(line) for line in done.stdout.split()]
    assert len(peaks) == 2 and max(peaks) < 10 + 8, peaks


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "ranks"), [("torch", 2), ("torch", 3), ("horovod", 2)])
@pytest.mark.parametrize("metric", ["cosine", "symmetric-chamfer"])
def test_any_number_of_ranks_gives_the_same_scores(tmp_path: Path, backend: str, ranks: int, metric: Metric) -> None:
    features = made(8, queries=7)
    write_store(tmp_path / "store", {k: (v, np.arange(len(v), dtype=float)) for k, v in features.items()}, {})
    found = {}
    for name, words in (("one", [sys.executable]), ("many", command_for(backend, ranks))):
        arguments = [*words, str(WORKER), str(tmp_path / "store"), str(tmp_path / f"{name}.npz"), metric, "30000"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = read_similarities(tmp_path / f"{name}.npz")
    said = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in found}
    assert said["many"]["ranks"] == ranks
    assert said["one"]["problems"] == said["many"]["problems"]
    assert len(said["one"]["problems"]) == 2
    assert (found["one"].queries, found["one"].database) == (found["many"].queries, found["many"].database)
    assert "v3" not in found["one"].database and "v7" not in found["one"].database
    one, many = (np.stack(list(each.rows(each.queries))) for each in (found["one"], found["many"]))
    np.testing.assert_allclose(one, many, atol=1.5e-6)  # one unit of rounding
