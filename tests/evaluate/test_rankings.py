"""Methods on tasks: self-exclusion, ties, intervals and the trivial solutions, against plain computations."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.metrics import average_precision
from reelkin.evaluate.ground_truth import Task, from_groups, from_pairs, make_task
from reelkin.evaluate.methods import build_methods, chance, from_embeddings, from_frames
from reelkin.evaluate.rankings import Method, evaluate_method, evaluate_task, gain
from reelkin.evaluate.results import Results, as_json, queries_csv, text_table
from reelkin.search.embed import FeaturesInMemory
from reelkin.train.models.tca import TCA, TCAConfig

IDS = ["a", "b", "c", "d", "e"]


def fixed(scores: dict[tuple[str, str], float]) -> Method:
    return Method("fixed", "", lambda qs, vs: np.array([[scores.get((q, v), 0.0) for v in vs] for q in qs]))


def task(pairs: list[tuple[str, str]], ids: list[str] = IDS, **options: bool) -> Task:
    return make_task(from_pairs(pairs), ids, **options)


def test_a_query_never_meets_itself() -> None:
    method = fixed({("a", "a"): 1.0, ("a", "b"): 0.9, ("a", "c"): 0.8})
    (query,) = evaluate_method(task([("a", "c")]), method).queries
    assert query.ap == pytest.approx(0.5)
    assert [match.video_id for match in query.best[:2]] == ["b", "c"]
    assert [match.relevant for match in query.best[:2]] == [False, True]
    assert "a" not in [match.video_id for match in query.best]


def test_ignored_videos_leave_the_ranking() -> None:
    method = fixed({("a", "b"): 0.9, ("a", "d"): 0.8, ("a", "c"): 0.7})
    plain = task([("a", "c")])
    (query,) = evaluate_method(replace(plain, ignored={"a": frozenset({"b"})}), method).queries
    assert query.ap == pytest.approx(1 / 2) and [match.video_id for match in query.best] == ["d", "c", "e"]
    assert evaluate_method(plain, method).mean == pytest.approx(1 / 3)


def test_identical_videos_tie_in_spite_of_rounding() -> None:
    noise = 1e-8
    forward = fixed({("a", "b"): 0.5 + noise, ("a", "c"): 0.5})
    backward = fixed({("a", "b"): 0.5, ("a", "c"): 0.5 + noise})
    truth = task([("a", "b")])
    assert evaluate_method(truth, forward).mean == evaluate_method(truth, backward).mean == pytest.approx(0.75)


def test_chance_is_the_mean_over_random_rankings() -> None:
    truth = task([("a", "b"), ("a", "c")])
    rng = np.random.default_rng(0)
    values = [average_precision(rng.random(4), [1, 1, 0, 0]) for _ in range(4000)]
    assert evaluate_method(truth, chance()).mean == pytest.approx(np.mean(values), abs=0.01)


def test_queries_without_positives_are_reported_and_not_averaged() -> None:
    result = evaluate_method(task([("a", "b"), ("c", "gone")]), fixed({("a", "b"): 1.0}))
    assert result.mean == 1.0 and result.aps == {"a": 1.0}
    assert [query.ap for query in result.queries] == [1.0, None]


def test_missing_positives_can_count_as_never_found() -> None:
    result = evaluate_method(task([("a", "b"), ("a", "gone")], count_missing=True), fixed({("a", "b"): 1.0}))
    assert result.mean == pytest.approx(0.5)


def test_nan_scores_are_refused_with_the_query() -> None:
    with pytest.raises(ReelkinError, match="query 'a'"):
        evaluate_method(task([("a", "b")]), fixed({("a", "c"): float("nan")}))


def test_blocks_of_queries_change_nothing() -> None:
    rng = np.random.default_rng(0)
    ids = [f"v{i}" for i in range(40)]
    truth = make_task(from_groups((v, str(i % 7)) for i, v in enumerate(ids)), ids)
    method = from_embeddings("m", "", ids, rng.normal(size=(40, 5)))
    small = Method("m", "", method.scores, block=3)
    assert evaluate_method(truth, method).aps == evaluate_method(truth, small).aps


def test_gain_is_paired_and_sharper_than_the_intervals() -> None:
    rng = np.random.default_rng(0)
    ids = [f"v{i}" for i in range(60)]
    truth = make_task(from_pairs((ids[i], ids[(i + 1) % 60]) for i in range(60)), ids)
    base = rng.random((60, 60))
    slightly_better = base.copy()
    slightly_better[np.arange(60), (np.arange(60) + 1) % 60] += 0.05
    result = evaluate_task(truth, [Method("m", "", lambda q, v: slightly_better), Method("b", "", lambda q, v: base)])
    ours, theirs = result.methods
    found = gain(truth, ours, theirs)
    assert found is not None and ours.mean is not None and theirs.mean is not None
    assert found.mean == pytest.approx(ours.mean - theirs.mean)
    assert found.high - found.low < (ours.high or 0) - (ours.low or 0)


def test_scores_that_hardly_differ_are_reported_as_a_collapse() -> None:
    rng = np.random.default_rng(0)
    ids = [f"v{i}" for i in range(20)]
    truth = make_task(from_groups((v, str(i // 2)) for i, v in enumerate(ids)), ids)
    apart = rng.normal(size=(20, 5))
    together = 100.0 + 0.1 * apart
    good, bad, base = evaluate_task(
        truth, [from_embeddings("a", "", ids, apart), from_embeddings("b", "", ids, together), chance()]
    ).methods
    assert bad.collapsed and not good.collapsed and not base.collapsed
    text = text_table(Results("", [evaluate_task(truth, [bad.method])]))
    assert "very likely collapsed" in text


def features(seed: int, count: int, dim: int = 16) -> FeaturesInMemory:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 9, count)
    return FeaturesInMemory({f"v{i}": rng.normal(size=(n, dim)).astype(np.float16) for i, n in enumerate(lengths)})


def test_methods_by_name_score_what_they_say() -> None:
    source = features(0, 12)
    ids = source.video_ids
    torch.manual_seed(0)
    model = TCA(TCAConfig(dim=16, num_heads=2, feedforward=32)).eval()
    names = ["mean-pool", "mean-pool-frame", "chance", "model-video", "tca-symmetric", "tca-frame", "untrained-video"]
    built = {m.name: m for m in build_methods(names, source, ids, model=model, model_name="tca")}
    assert list(built) == [name.replace("model-", "tca-") for name in names]
    assert [m.trivial for m in built.values()] == [True, True, True, False, False, False, True]
    mean = [source.features(v).astype(np.float64).mean(axis=0) for v in ids]
    expected = [np.dot(mean[0], other) / np.linalg.norm(mean[0]) / np.linalg.norm(other) for other in mean]
    np.testing.assert_allclose(built["mean-pool"].scores(ids[:1], ids)[0], expected, atol=1e-5)
    with torch.no_grad():
        encoded = [
            model.encode(torch.tensor(source.features(v)).float()[None], torch.tensor([len(source.features(v))]))[0]
            for v in ids
        ]
    sims = [(encoded[0] @ other.T).numpy() for other in encoded]
    forward = [s.max(axis=1).mean() for s in sims]
    symmetric = [(s.max(axis=1).mean() + s.max(axis=0).mean()) / 2 for s in sims]
    np.testing.assert_allclose(built["tca-frame"].scores(ids[:1], ids)[0], forward, atol=2e-3)
    np.testing.assert_allclose(built["tca-symmetric"].scores(ids[:1], ids)[0], symmetric, atol=2e-3)
    difference = built["untrained-video"].scores(ids, ids) - built["tca-video"].scores(ids, ids)
    assert np.abs(difference).max() > 1e-3


def test_methods_that_lack_their_input_or_do_not_exist_are_usage_errors() -> None:
    source = features(0, 3)
    for name, message in (("pixels", "--shards"), ("tca-video", "--model"), ("nonsense", "unknown method 'nonsense'")):
        with pytest.raises(UsageError, match=message):
            build_methods([name], source, source.video_ids, model_name="tca")


def test_frame_methods_refuse_what_does_not_fit_in_memory() -> None:
    source = features(0, 3)
    with pytest.raises(ReelkinError, match="--max-memory"):
        build_methods(["mean-pool-frame"], source, source.video_ids, max_memory=100)


def test_results_hold_every_figure_and_query() -> None:
    source = features(1, 12)
    ids = source.video_ids
    truth = make_task(from_groups((v, str(i // 3)) for i, v in enumerate(ids)), ids, name="all")
    methods = build_methods(["mean-pool", "chance"], source, ids)
    frames = [np.eye(16, dtype=np.float32)[i // 3][None] for i in range(12)]
    methods.append(from_frames("oracle", "", ids, frames, symmetric=True))
    results = Results("T", [evaluate_task(truth, methods)])
    value = json.loads(json.dumps(as_json(results), allow_nan=False))
    (only,) = value["tasks"]
    assert [m["method"] for m in only["methods"]] == ["mean-pool", "chance", "oracle"]
    assert only["methods"][2]["map"] == 1.0 and only["methods"][2]["micro_ap"] == 1.0
    assert only["gain_over_mean_pool"]["oracle"]["mean"] == pytest.approx(1.0 - only["methods"][0]["map"])
    assert results.mean("oracle", "all") == 1.0
    assert only["ids_sha256"] == truth.ids_sha256
    rows = list(csv.DictReader(io.StringIO(queries_csv(results))))
    assert len(rows) == 3 * 12
    values = [float(row["ap"]) for row in rows if row["method"] == "mean-pool"]
    assert np.mean(values) == pytest.approx(only["methods"][0]["map"], abs=1e-6)
    assert "oracle" in text_table(results)


def test_precision_at_levels_of_recall_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import precision_recall_curve

    ids = [f"v{n}" for n in range(40)]
    rng = np.random.default_rng(5)
    scores_VV = rng.normal(size=(40, 40)).round(1)
    method = Method("random", "", lambda queries, database: scores_VV[[int(query[1:]) for query in queries]])
    own = make_task(from_groups((name, str(n % 4)) for n, name in enumerate(ids)), ids)
    expected = np.zeros(101)
    for query in own.queries:
        others = [name for name in ids if name != query]
        row = [scores_VV[int(query[1:]), int(name[1:])] for name in others]
        precision, recall, _ = precision_recall_curve([name in own.relevant[query] for name in others], row)
        reached = [precision[:-1][recall[:-1] >= level - 1e-12] for level in np.linspace(0, 1, 101)]
        expected += [found.max() for found in reached]
    np.testing.assert_allclose(evaluate_method(own, method).precision, expected / len(own.queries))
