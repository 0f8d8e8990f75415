"""Every figure of every benchmark, corrected and as published, equals plain loops on random cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.published.annotation import Annotation, Problem
from reelkin.evaluate.published.measures import Present
from reelkin.evaluate.published.outcome import Outcome
from reelkin.evaluate.published.protocols import PROTOCOLS, description, make_measures
from reelkin.evaluate.published.scoring import ROUGH, evaluate_scores

from . import cases
from .brute import Brute, Figures

DATASETS = ("FIVR-200K", "VCDB", "CC_WEB_VIDEO", "EVVE", "SVD", "PAIRS")
NUM_CASES, NUM_QUICK = 1000, 120


def flat(outcome: Outcome) -> Figures:
    figures: Figures = {}
    for name, figure in outcome.figures.items():
        figures.update(figure if isinstance(figure, dict) else {name: figure})
    return figures


def compare(dataset: str, protocol: str, seed: int) -> None:
    rng = np.random.default_rng([seed, DATASETS.index(dataset)])
    annotation = cases.annotation(dataset, rng)
    table = cases.scores(annotation, rng)
    brute = Brute(annotation, table.dictionary(), list(table.database))
    if not brute.db:
        with pytest.raises(ReelkinError, match="none of the .* has scores"):
            evaluate_scores(annotation, table, protocol=protocol)
        return
    outcome = evaluate_scores(annotation, table, protocol=protocol)
    assert flat(outcome) == pytest.approx(brute.figures(protocol), abs=1e-9), seed
    assert (outcome.queries.found, outcome.queries.of) == (len(brute.sims), len(annotation.queries))
    assert outcome.database.found == len(brute.db)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_figures_equal_plain_loops(dataset: str, protocol: str) -> None:
    for seed in range(NUM_QUICK):
        compare(dataset, protocol, seed)


@pytest.mark.slow
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_figures_equal_plain_loops_on_a_thousand_cases(dataset: str, protocol: str) -> None:
    for seed in range(NUM_QUICK, NUM_CASES):
        compare(dataset, protocol, seed)


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_perfect_ranking_scores_one_when_corrected(dataset: str) -> None:
    num_full = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 99])
        annotation = cases.annotation(dataset, rng)
        for labels, names in PERFECT[dataset]:
            table = cases.scores(annotation, rng)
            brute = Brute(annotation, table.dictionary(), list(table.database))
            if not brute.db:
                continue
            right = {query: annotation.listed(query, labels) for query in annotation.queries}
            table.scores_QV = np.array(
                [[float(v in right.get(q, ())) + rng.random() / 2 for v in table.database] for q in table.queries]
            )
            figures = flat(evaluate_scores(annotation, table))
            found = [value for name, value in figures.items() if name in (names or figures) and value is not None]
            assert found == pytest.approx([1.0] * len(found)), seed
            num_full += len(found)
    assert num_full > 30


PERFECT: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "FIVR-200K": [
        (("ND", "DS"), ("DSVR", "DSVD")),
        (("ND", "DS", "CS"), ("CSVR", "CSVD")),
        (("ND", "DS", "CS", "IS"), ("ISVR", "ISVD")),
    ],
    "VCDB": [(("copy",), ())],
    "CC_WEB_VIDEO": [(tuple("ESLMV"), ())],
    "EVVE": [(("event",), ())],
    "SVD": [(("1",), ())],
    "PAIRS": [(("positive",), ())],
}


@pytest.mark.parametrize("dataset", ["VCDB", "EVVE", "PAIRS"])
def test_untied_figures_agree_with_scikit_learn(dataset: str) -> None:
    compared = 0
    for seed in range(80):
        rng = np.random.default_rng([seed, 7])
        annotation = cases.annotation(dataset, rng)
        table = cases.scores(annotation, rng, complete=True)
        table.scores_QV = rng.permutation(table.scores_QV.size).reshape(table.scores_QV.shape).astype(np.float32)
        hits, values, aps = [], [], []
        labels = PERFECT[dataset][0][0]
        for query in annotation.queries:
            row = dict(zip(table.database, table.scores_QV[list(table.queries).index(query)], strict=True))
            own = annotation.listed(query, annotation.labels[query])
            ranked = [
                v
                for v in row
                if v != query
                and v not in annotation.unclear.get(query, ())
                and (not annotation.judged_only or v in own)
                and (annotation.database is None or v in annotation.database)
            ]
            right = [v in annotation.listed(query, labels) for v in ranked]
            if any(right):
                aps.append(average_precision_score(right, [row[v] for v in ranked]))
            hits += right
            values += [row[v] for v in ranked]
        if aps:
            outcome = evaluate_scores(annotation, table)
            assert outcome.figures["mAP"] == pytest.approx(np.mean(aps), abs=1e-12)
            assert outcome.figures["uAP"] == pytest.approx(average_precision_score(hits, values), abs=1e-12)
            compared += 1
    assert compared > 40


def pairs(labels: dict[str, dict[str, tuple[str, ...]]], **options: object) -> Annotation:
    return Annotation("PAIRS", "", tuple(labels), None, labels, **options)


def table(rows: dict[str, dict[str, float]]) -> cases.Table:
    database = list(dict.fromkeys(v for row in rows.values() for v in row))
    matrix = np.array([[row.get(v, np.nan) for v in database] for row in rows.values()], dtype=np.float32)
    return cases.Table(list(rows), database, matrix)


def kinds(outcome: Outcome) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {problem.kind: (problem.count, problem.examples) for problem in outcome.problems}


def test_coverage_of_pairs_counts_the_videos_that_the_list_names_and_nobody_scored() -> None:
    labels = {"a": {"positive": ("x", "lost"), "negative": ("gone",)}}
    annotation = pairs(labels, unclear={"a": frozenset({"doubtful"})})
    outcome = evaluate_scores(annotation, table({"a": {"x": 2, "stranger": 1}}))
    assert (outcome.database.found, outcome.database.of) == (2, 5)
    assert kinds(outcome)["videos of the annotation without scores"] == (3, ("lost", "gone", "doubtful"))
    assert outcome.figures == {"mAP": 1.0, "uAP": 1.0}


def test_a_query_without_positives_is_reported_and_not_averaged() -> None:
    annotation = pairs({"a": {"positive": ("x",)}, "b": {"positive": ("gone",)}})
    outcome = evaluate_scores(annotation, table({"a": {"x": 2, "y": 1}, "b": {"x": 1, "y": 2}}))
    assert outcome.figures["mAP"] == 1.0
    assert kinds(outcome)["queries without positives for mAP; not averaged"] == (1, ("b",))
    row = outcome.rows[1]
    assert (row.query, row.ap, row.num_positives, row.missing) == ("b", None, 0, ("gone",))
    assert outcome.as_json()["queries"] == {"mAP": {"a": 1.0, "b": None}}


def test_a_query_row_names_the_best_wrong_answer_and_what_is_missing() -> None:
    annotation = pairs({"a": {"positive": ("x", "unscored", "gone"), "negative": ("z",)}})
    scores = table({"a": {"a": 9, "y": 3, "x": 2, "z": 1}, "other": {"unscored": 1}})
    outcome = evaluate_scores(annotation, scores)
    (row,) = outcome.rows
    assert (row.best_wrong, row.best_wrong_score) == ("y", 3.0)
    assert row.missing == ("gone", "unscored")
    # the video is there, so it counts though its pair has no score; the one that is gone does not
    assert (row.num_positives, row.ap) == (2, pytest.approx((1 / 2) / 2))
    assert kinds(outcome)["queries of the scores that the annotation does not know; left out"] == (1, ("other",))
    (unscored,) = (text for text in kinds(outcome) if text.startswith("queries with pairs that have no score"))
    assert kinds(outcome)[unscored] == (1, ("a: 1 pairs",))


def test_what_becomes_of_pairs_without_a_score_is_said_as_the_protocol_has_it() -> None:
    labels = {query: {"1": ("x", "y"), "0": ("z",)} for query in "ab"}
    annotation = Annotation("SVD", "", ("a", "b"), ("x", "y", "z"), labels, judged_only=True)
    scores = table({"a": {"x": 2, "z": 1}, "b": {"x": 3, "y": 2, "z": 1}})
    for protocol, map_, said in (("corrected", 0.75, "counts as never found"), ("legacy", 1.0, "these are left out")):
        assert evaluate_scores(annotation, scores, protocol=protocol).figures == {"mAP": map_}
        (kind,) = [each for each in kinds(evaluate_scores(annotation, scores, protocol=protocol)) if "pairs" in each]
        assert kind.endswith(said)


def test_every_printed_line_says_how_much_is_there() -> None:
    annotation = cases.annotation("EVVE", np.random.default_rng(3))
    outcome = evaluate_scores(annotation, cases.scores(annotation, np.random.default_rng(0)), num_resamples=20)
    coverage = f"{outcome.queries.found} of {outcome.queries.of} queries, "
    figures = [line for line in outcome.text().splitlines() if not line.startswith("note: ")]
    assert len(figures) >= 4 and all(coverage in line for line in figures)
    beside = outcome.text({"chance": outcome}).splitlines()
    assert all(coverage in line for line in beside if not line.startswith("note: "))


def few_events() -> Annotation:
    """Three events: of two queries with scores, of one of two, and of one without scores; a positive each."""
    group_of = {"q0": "a", "q1": "a", "q2": "b", "lost1": "b", "lost2": "c"}
    labels = {query: {"event": (f"v{n}",)} for n, query in enumerate(group_of)}
    return Annotation("EVVE", "", tuple(group_of), tuple(f"v{n}" for n in range(9)), labels, groups=group_of)


def test_an_event_says_how_many_of_its_own_queries_have_scores() -> None:
    table = cases.Table(["q0", "q1", "q2"], [f"v{n}" for n in range(9)], np.random.default_rng(0).random((3, 9)))
    outcome = evaluate_scores(few_events(), table)
    lines = {line.split()[0]: line for line in outcome.text().splitlines()}
    assert lines["a"].endswith("[2 of 2 queries, 9 of 9 videos]")
    assert lines["b"].endswith("[1 of 2 queries, 9 of 9 videos]")
    assert lines["c"].endswith("no query has scores  [0 of 1 queries, 9 of 9 videos]")
    assert lines["mAP"].endswith("[3 of 5 queries, 9 of 9 videos]")
    assert outcome.as_json()["coverage"]["events"] == {"a": [2, 2], "b": [1, 2], "c": [0, 1]}


def test_one_query_has_no_interval_and_few_have_a_rough_one() -> None:
    table = cases.Table(["q0", "q1", "q2"], [f"v{n}" for n in range(9)], np.random.default_rng(0).random((3, 9)))
    outcome = evaluate_scores(few_events(), table, num_resamples=50)
    events = outcome.intervals["events"]
    assert isinstance(events, dict) and events["a"] is not None and events["b"] is None
    assert Problem(ROUGH, 3, ()) in outcome.problems
    assert all(problem.kind != ROUGH for problem in evaluate_scores(few_events(), table).problems)
    alone = evaluate_scores(few_events(), cases.Table(["q0"], table.database, table.scores_QV[:1]), num_resamples=50)
    assert alone.figures["mAP"] is not None and alone.intervals["mAP"] is None and alone.intervals["uAP"] is None


def test_an_event_sends_no_codes_to_the_terminal() -> None:
    annotation = Annotation("EVVE", "", ("a",), ("x",), {"a": {"event": ("x",)}}, groups={"a": "\x1b[2Jparty"})
    text = evaluate_scores(annotation, table({"a": {"x": 1}})).text()
    assert r"\x1b[2Jparty" in text and "\x1b" not in text


def test_nothing_in_common_is_an_error_that_shows_both_spellings() -> None:
    annotation = cases.annotation("SVD", np.random.default_rng(0))
    with pytest.raises(ReelkinError, match=r"none of the \d+ queries of SVD has scores .*'v0'.*'zzz'.*spelled"):
        evaluate_scores(annotation, table({"zzz": {annotation.database[0]: 1.0}}))
    with pytest.raises(ReelkinError, match="none of the .* videos of SVD has scores"):
        evaluate_scores(annotation, table({annotation.queries[0]: {"zzz": 1.0}}))


def test_an_id_in_two_spellings_counts_once_and_is_named() -> None:
    annotation = pairs({"a": {"positive": ("x",)}}, normal_id=lambda text: text.rpartition("/")[2])
    outcome = evaluate_scores(annotation, table({"1/a": {"1/x": 1, "2/x": 5, "y": 3}}))
    assert outcome.figures["mAP"] == pytest.approx(0.5)
    assert kinds(outcome)["a video stands in the scores more than once; the first counts"] == (1, ("2/x",))


def test_rows_of_another_length_or_kind_are_refused() -> None:
    annotation = pairs({"a": {"positive": ("x",)}})
    with pytest.raises(ReelkinError, match=r"query 'a' are int64 of shape \(2,\).*expected real numbers"):
        evaluate_scores(annotation, cases.Table(["a"], ["x", "y"], np.array([[1, 2]])))
    with pytest.raises(ReelkinError, match=r"shape \(3,\); expected real numbers of shape \(2,\)"):
        evaluate_scores(annotation, cases.Table(["a"], ["x", "y"], np.zeros((1, 3))))


def test_what_the_scores_say_of_themselves_goes_into_the_outcome() -> None:
    annotation = pairs({"a": {"positive": ("x",)}})
    scores = table({"a": {"x": 1, "y": 2}})
    scores.problems, scores.facts = (Problem("videos without a frame", 1, ("z",)),), {"metric": "cosine"}
    outcome = evaluate_scores(annotation, scores)
    assert kinds(outcome)["videos without a frame"] == (1, ("z",))
    assert outcome.as_json()["scores"] == {"metric": "cosine"}


def test_infinite_scores_are_ranked() -> None:
    annotation = pairs({"a": {"positive": ("x",)}})
    outcome = evaluate_scores(annotation, table({"a": {"x": 1, "y": np.inf, "z": -np.inf}}))
    assert outcome.figures == {"mAP": 0.5, "uAP": 0.5}
    assert outcome.as_json()["query_table"][0]["best_wrong_score"] is None


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dataset", (*DATASETS, "FIVR-5K", "VCDB-CORE"))
def test_each_protocol_says_in_words_what_it_does(dataset: str, protocol: str) -> None:
    text = description(dataset, protocol)
    assert ("perfect ranking scores 1." in text) == (protocol == "corrected")
    assert protocol == "corrected" or "As " in text


def test_an_unknown_protocol_is_refused() -> None:
    annotation = pairs({"a": {"positive": ("x",)}})
    with pytest.raises(UsageError, match="--protocol old is none of corrected, legacy"):
        make_measures(annotation, Present(frozenset("a"), frozenset("x")), "old")
