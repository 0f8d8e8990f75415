"""Two systems on what both have: figures as of plain dictionaries, intervals as of a plain loop over the same draws."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.evaluate.comparing.intersection import JudgedAgain, judge_again
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.pooling import draw_weights
from reelkin.evaluate.published.protocols import PROTOCOLS
from reelkin.evaluate.published.saved_scores import SavedScores, read_scores, write_scores
from reelkin.evaluate.published.scoring import evaluate_scores
from tests.evaluate.published import cases
from tests.evaluate.published.brute import Brute, Figures, Similarities, expected_precision_sum

DATASETS = ("FIVR-200K", "VCDB", "CC_WEB_VIDEO", "EVVE", "SVD", "PAIRS")
NUM_CASES = 40


def saved(folder: Path, name: str, annotation: Annotation, table: cases.Table) -> SavedScores:
    file = write_scores(folder / name, annotation, table, 10**9, ordered=True)
    assert file is not None
    return read_scores(folder, file)


def judged(
    folder: Path,
    annotation: Annotation,
    tables: list[cases.Table],
    protocol: str,
    *,
    leave_out: bool = False,
    num_resamples: int = 3,
) -> JudgedAgain:
    a, b = (saved(folder, name, annotation, table) for name, table in zip("ab", tables, strict=True))
    return judge_again(a, b, annotation, protocol, leave_out=leave_out, num_resamples=num_resamples, level=0.9, seed=4)


def on_both(
    annotation: Annotation, tables: list[cases.Table], *, leave_out: bool
) -> tuple[Annotation, list[Similarities], list[list[str]]]:
    """What is left by plain sets: annotation, and of each system its pairs and columns."""
    database = annotation.database
    columns = [[v for v in table.database if database is None or v in database] for table in tables]
    pairs = [table.dictionary() for table in tables]
    queries = [q for q in annotation.queries if all(q in of for of in pairs)]
    columns = [[v for v in own if v in columns[0] and v in columns[1]] for own in columns]
    pairs = [{q: {v: s for v, s in of[q].items() if v in columns[0]} for q in queries} for of in pairs]
    if leave_out:
        labels = {}
        for query, by_label in annotation.labels.items():
            lone = set(pairs[0].get(query, {})) ^ set(pairs[1].get(query, {}))
            if annotation.dataset not in ("CC_WEB_VIDEO", "SVD"):  # elsewhere a query is never ranked for itself
                lone.discard(query)
            labels[query] = {label: tuple(v for v in ids if v not in lone) for label, ids in by_label.items()}
        annotation = replace(annotation, labels=labels)
        both = {q: set(pairs[0][q]) & set(pairs[1][q]) for q in queries}
        pairs = [{q: {v: s for v, s in of[q].items() if v in both[q]} for q in queries} for of in pairs]
    return annotation, pairs, columns


def drawn(seed: int, dataset: str) -> tuple[Annotation, list[cases.Table]]:
    rng = np.random.default_rng([seed, DATASETS.index(dataset), 11])
    annotation = cases.annotation(dataset, rng)
    return annotation, [cases.scores(annotation, rng) for _ in "ab"]


def figures_of(found: JudgedAgain, side: str) -> Figures:
    return {each.measure.removeprefix("events: "): getattr(each, side) for each in found.differences}


@pytest.mark.parametrize("leave_out", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_both_are_judged_as_plain_dictionaries_of_what_both_have(
    dataset: str, protocol: str, leave_out: bool, tmp_path: Path
) -> None:
    compared = lone = 0
    for seed in range(NUM_CASES):
        annotation, tables = drawn(seed, dataset)
        # pairs without a score are left out of both in any case where the protocol leaves them out
        out = leave_out or (dataset, protocol) == ("SVD", "legacy")
        truth, pairs, columns = on_both(annotation, tables, leave_out=out)
        if not pairs[0] or not columns[0]:
            with pytest.raises(ReelkinError, match="have no (query|video) in common|has scores"):
                judged(tmp_path, annotation, tables, protocol)
            continue
        found = judged(tmp_path, annotation, tables, protocol, leave_out=leave_out)
        for side, similarities, order in zip("ab", pairs, columns, strict=True):
            expected = Brute(truth, similarities, order).figures(protocol)
            there = {name: value for name, value in expected.items() if value is not None}
            assert figures_of(found, side) == pytest.approx(there, abs=1e-9), seed
        assert found.coverage["queries"] == (len(pairs[0]), len(annotation.queries))
        assert found.coverage["database"][0] == len(columns[0])
        compared += 1
        lone += any("pairs have a score in" in note for note in found.notes)
    assert compared > NUM_CASES / 2 and lone > 3


def pooled(brute: Brute, labels: tuple[str, ...], times: dict[str, int]) -> float | None:
    """Micro average precision where a query is there as often as it was drawn."""
    pool: list[tuple[float, bool]] = []
    total = 0
    for query, row in brute.sims.items():
        positives = (brute.listed(query, labels) & set(brute.db)) - {query}
        total += times[query] * len(positives)
        ranked = [v for v in brute.db if v != query and v not in brute.a.unclear.get(query, ())]
        if brute.a.judged_only:
            ranked = [v for v in ranked if v in brute.listed(query, brute.a.labels[query])]
        pool += times[query] * [(row[v], v in positives) for v in ranked if v in row]
    return expected_precision_sum(pool) / total if total else None


def averaged(brute: Brute, labels: tuple[str, ...], times: dict[str, int]) -> float | None:
    """Mean average precision where a query is there as often as it was drawn."""
    aps = brute.corrected(labels, pooled=False)
    assert isinstance(aps, dict)
    values = [ap for query, ap in aps.items() if ap is not None for _ in range(times[query])]
    return sum(values) / len(values) if values else None


MEASURES = {
    "FIVR-200K": {"DSVR": ("ND", "DS"), "ISVR": ("ND", "DS", "CS", "IS"), "CSVD": ("ND", "DS", "CS")},
    "VCDB": {"mAP": ("copy",), "uAP": ("copy",)},
    "PAIRS": {"mAP": ("positive",), "uAP": ("positive",)},
    "EVVE": {"mAP": ("event",), "uAP": ("event",)},
}


@pytest.mark.parametrize("dataset", list(MEASURES))
def test_intervals_are_those_of_a_loop_over_the_same_draws(dataset: str, tmp_path: Path) -> None:
    compared = 0
    for seed in range(25):
        annotation, tables = drawn(seed, dataset)
        _, pairs, columns = on_both(annotation, tables, leave_out=False)
        if not pairs[0] or not columns[0]:
            continue
        found = {d.measure: d for d in judged(tmp_path, annotation, tables, "corrected", num_resamples=30).differences}
        brutes = [Brute(annotation, *each) for each in zip(pairs, columns, strict=True)]
        draws = draw_weights(len(pairs[0]), 30, 4)[1:].astype(int).tolist()
        for name, labels in MEASURES[dataset].items():
            if name not in found:
                continue
            of = pooled if name in ("uAP", "CSVD") else averaged
            apart = []
            for draw in draws:
                of_a, of_b = (of(brute, labels, dict(zip(pairs[0], draw, strict=True))) for brute in brutes)
                if of_a is not None and of_b is not None:
                    apart.append(of_b - of_a)
            mean = found[name].mean
            enough = found[name].num_queries > 1  # a single query is drawn again and again
            low, high = np.quantile(apart, [0.05, 0.95]) if apart and enough else (None, None)
            expected = (None, None) if low is None else (min(low, mean), max(high, mean))
            assert (found[name].low, found[name].high) == pytest.approx(expected, abs=1e-9), (seed, name)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_where_both_have_the_same_the_figures_are_those_of_each_alone(
    dataset: str, protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelkin.evaluate.published.pooling.MAX_WEIGHTED", 20)  # so that resamples divide the sums
    for seed in range(20):
        annotation, (one, two) = drawn(seed, dataset)
        if annotation.database is not None and not set(one.database) & set(annotation.database):
            continue
        rng = np.random.default_rng(seed)
        there = ~np.isnan(one.scores_QV)
        other = np.where(there, rng.integers(0, 9, one.scores_QV.shape), np.nan).astype(np.float32)
        columns = rng.permutation(len(one.database))
        two = cases.Table(one.queries, [one.database[column] for column in columns], other[:, columns])
        found = judged(tmp_path, annotation, [one, two], protocol)
        for side, table in (("a", one), ("b", two)):
            alone = evaluate_scores(annotation, table, protocol=protocol, num_resamples=seed).figures
            flat = {k: v for name, x in alone.items() for k, v in (x if isinstance(x, dict) else {name: x}).items()}
            assert figures_of(found, side) == {name: value for name, value in flat.items() if value is not None}
        assert not any("have a score in" in note for note in found.notes)


def a_pair_of_lists() -> tuple[Annotation, list[cases.Table]]:
    annotation = Annotation("PAIRS", "", ("q", "r"), None, {"q": {"positive": ("a", "b")}, "r": {"positive": ("a",)}})
    full = np.array([[0.9, 0.5, 0.7, 0.1], [0.9, 0.1, 0.2, 0.3]], dtype=np.float32)
    cut = full.copy()
    cut[0, 1] = np.nan  # the list of q is cut before its second positive
    cut[1, 3] = np.nan
    return annotation, [cases.Table(("q", "r"), ("a", "b", "c", "d"), each) for each in (full, cut)]


def test_a_pair_that_one_lacks_counts_against_it_or_is_left_out_of_both(tmp_path: Path) -> None:
    annotation, tables = a_pair_of_lists()
    found = judged(tmp_path, annotation, tables, "corrected")
    assert figures_of(found, "a")["mAP"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert figures_of(found, "b")["mAP"] == pytest.approx((1 / 2 + 1) / 2)
    (note,) = found.notes
    assert note.startswith("2 pairs have a score in a only and count for b as the protocol says") and "'q', 'r'" in note
    found = judged(tmp_path, annotation, tables, "corrected", leave_out=True)
    assert figures_of(found, "a") == figures_of(found, "b") == {"mAP": 1.0, "uAP": 1.0}
    assert found.notes == ["2 pairs have a score in a only and are left out of both; of queries 'q', 'r'"]


def test_pairs_that_are_not_ranked_are_not_said_to_be_lacking(tmp_path: Path) -> None:
    annotation = Annotation("VCDB-CORE", "", ("a", "b"), ("a", "b"), {"a": {"copy": ("b",)}, "b": {"copy": ("a",)}})
    full = np.array([[1.0, 0.5], [0.5, 1.0]], dtype=np.float32)
    without_self = np.where(np.eye(2), np.nan, full).astype(np.float32)
    tables = [cases.Table(("a", "b"), ("a", "b"), each) for each in (full, without_self)]
    assert judged(tmp_path, annotation, tables, "corrected").notes == []


@pytest.mark.parametrize(
    ("queries", "videos", "said"),
    [
        (("r",), ("a", "b"), r"no query in common.* a has 1 \('q'\), b 1 \('r'\)"),
        (("q",), ("c", "d"), r"no video in common.* a has 2 \('a', 'b'\), b 2 \('c', 'd'\)"),
    ],
)
def test_nothing_in_common_is_refused_with_what_each_has(
    queries: tuple[str, ...], videos: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    annotation, _ = a_pair_of_lists()
    values = np.zeros((1, 2), dtype=np.float32)
    tables = [cases.Table(("q",), ("a", "b"), values), cases.Table(queries, videos, values)]
    with pytest.raises(ReelkinError, match=said):
        judged(tmp_path, annotation, tables, "corrected")


def test_queries_without_a_positive_in_both_are_named_and_not_averaged(tmp_path: Path) -> None:
    annotation, _ = a_pair_of_lists()
    values = np.array([[0.5, 0.4], [0.1, 0.2]], dtype=np.float32)
    tables = [cases.Table(("q", "r"), ("b", "c"), values)] * 2
    found = judged(tmp_path, annotation, tables, "corrected")
    assert found.notes == ["1 queries of mAP have no positive in both: 'r'"]
    assert found.differences[0].num_queries == 1
