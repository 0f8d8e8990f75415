"""Two results without their scores, side by side: differences as worked by hand and by an independent bootstrap, and
what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.compare import main
from reelkin.evaluate.comparing.comparison import Comparison
from reelkin.evaluate.comparing.session import CompareConfig, compare
from reelkin.evaluate.published.benchmarks import read_annotation
from reelkin.evaluate.published.embedding_scores import MatrixScores
from reelkin.evaluate.published.scoring import evaluate_scores
from tests.helpers.runs import run_here

QUERIES, VIDEOS = [f"q{n}" for n in range(30)], [f"v{n}" for n in range(40)]


def evaluated(folder: Path, name: str, seed: int, *, skill: float = 0.0, drop: int = 0, lose: int = 0) -> Path:
    """results.json of random scores; ``skill`` is added to positives, some queries and videos may be missing."""
    truth = np.random.default_rng(0).random((len(QUERIES), len(VIDEOS))) < 0.15
    truth[:, 0] = True
    pairs = folder / "pairs.csv"
    lines = [f"{q},{v},{int(truth[i, j])}" for i, q in enumerate(QUERIES) for j, v in enumerate(VIDEOS)]
    pairs.write_text("query,video,label\n" + "\n".join(lines) + "\n")
    scores = np.random.default_rng(seed).normal(size=truth.shape).astype(np.float32) + np.float32(skill) * truth
    videos = VIDEOS[: len(VIDEOS) - lose]
    held = MatrixScores(QUERIES[drop:], videos, scores[drop:, : len(videos)])
    path = folder / f"{name}.json"
    path.write_text(json.dumps(evaluate_scores(read_annotation("PAIRS", pairs), held).as_json()))
    return path


def by_name(comparison: Comparison) -> dict[str, Any]:
    return {difference.measure: difference for difference in comparison.differences}


def change(path: Path, **fields: Any) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | fields))
    return path


def test_differences_wins_and_intervals_are_those_of_the_queries(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 2, skill=1.5)
    comparison = compare(CompareConfig(a=a, b=b, resamples=4000))
    ours, theirs = (json.loads(path.read_text()) for path in (a, b))
    differences = np.array([theirs["queries"]["mAP"][q] - ours["queries"]["mAP"][q] for q in QUERIES])
    found = by_name(comparison)["mAP"]
    assert (found.a, found.b) == (pytest.approx(ours["metrics"]["mAP"]), pytest.approx(theirs["metrics"]["mAP"]))
    assert found.mean == pytest.approx(differences.mean())
    assert (found.num_queries, found.wins, found.losses) == (30, (differences > 0).sum(), (differences < 0).sum())
    drawn = np.random.default_rng(7).integers(0, 30, (4000, 30))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert found.clear and found.low > 0.1
    pooled = by_name(comparison)["uAP"]
    assert pooled.mean == pytest.approx(theirs["metrics"]["uAP"] - ours["metrics"]["uAP"])
    assert pooled.low is None and pooled.num_queries == 0


def test_a_system_against_itself_wins_nothing(tmp_path: Path) -> None:
    a = evaluated(tmp_path, "a", 1)
    found = by_name(compare(CompareConfig(a=a, b=a)))["mAP"]
    assert (found.mean, found.low, found.high, found.wins, found.losses) == (0, 0, 0, 0, 0)
    assert not found.clear


def test_the_paired_interval_is_narrower_than_the_two_apart(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 1, skill=0.1)
    found = by_name(compare(CompareConfig(a=a, b=b)))["mAP"]
    values = np.array(list(json.loads(a.read_text())["queries"]["mAP"].values()))
    alone = 2 * 1.96 * values.std() / np.sqrt(len(values))
    assert found.high - found.low < alone / 2


def test_only_common_queries_count_and_the_others_are_named(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 2, drop=4)
    comparison = compare(CompareConfig(a=a, b=b))
    found = by_name(comparison)["mAP"]
    ours = json.loads(a.read_text())["queries"]["mAP"]
    assert found.num_queries == 26
    assert found.a == pytest.approx(np.mean([ours[query] for query in QUERIES[4:]]))
    assert any("4 queries of mAP are in a only, and left out: 'q0', 'q1', 'q2', 'q3'" in x for x in comparison.notes)
    assert comparison.notes[-2].startswith("uAP: of all queries and positives that each has")
    (note,) = compare(CompareConfig(a=a, b=a)).notes
    assert note.startswith("compared by the figures that each has, not judged again on what both have: a names no file")


def test_other_databases_are_said_and_queries_that_lost_positives_left_out(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 1, lose=5)
    comparison = compare(CompareConfig(a=a, b=b))
    rows = {name: json.loads(path.read_text())["query_table"] for name, path in (("a", a), ("b", b))}
    counts = {name: {row["query"]: row["num_positives"] for row in table} for name, table in rows.items()}
    alike = [query for query in QUERIES if counts["a"][query] == counts["b"][query]]
    assert 0 < len(alike) < 30
    assert by_name(comparison)["mAP"].num_queries == len(alike)
    assert any(
        f"{30 - len(alike)} queries of mAP have another number of positives" in note for note in comparison.notes
    )
    assert any("a was searched in 40 of 40 videos, b in 35" in note for note in comparison.notes)
    text = comparison.text()
    assert "a: 30 of 30 queries, 40 of 40 videos" in text and "b: 30 of 30 queries, 35 of 40 videos" in text
    assert all(note in text for note in comparison.notes)


def test_a_query_without_a_value_is_left_out(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 2)
    content = json.loads(b.read_text())
    content["queries"]["mAP"]["q7"] = None
    change(b, queries=content["queries"])
    comparison = compare(CompareConfig(a=a, b=b))
    assert by_name(comparison)["mAP"].num_queries == 29
    assert any("1 queries of mAP have no average precision, and are left out: 'q7'" in x for x in comparison.notes)


def test_figures_of_events_stand_beside_each_other(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 2)
    for path, values in ((a, {"x": 0.25, "y": None}), (b, {"x": 0.5, "z": 1.0})):
        change(path, metrics={**json.loads(path.read_text())["metrics"], "events": values})
    found = by_name(compare(CompareConfig(a=a, b=b)))
    assert found["events: x"].mean == pytest.approx(0.25)
    assert not {"events: y", "events: z"} & set(found)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"dataset": "EVVE"}, "the dataset is 'PAIRS' in the one and 'EVVE' in the other"),
        ({"protocol": "legacy"}, "the protocol is 'corrected' in the one and 'legacy' in the other"),
        ({"annotation_sha256": "f" * 64, "annotation": "new"}, r"the annotation is .*sha256 .* and new \(sha256 ffff"),
    ],
)
def test_results_of_different_things_are_refused_with_both_named(
    tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    a, b = evaluated(tmp_path, "a", 1), change(evaluated(tmp_path, "b", 2), **fields)
    with pytest.raises(UsageError, match=said):
        compare(CompareConfig(a=a, b=b))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"format": "reelkin-results"}, "holds no results of a benchmark"),
        ({"version": 99}, "version 99"),
        ({"coverage": {}}, "is damaged"),
        ({"queries": [1]}, "is damaged"),
        ({"queries": {"mAP": {"q0": float("nan")}}}, "is damaged"),
        ({"metrics": {"uAP": float("inf")}}, "is damaged"),
        ({"metrics": {"events": {"x": "0,5"}}}, "is damaged"),
        ({"queries": {}, "metrics": {}}, "nothing can be compared"),
    ],
)
def test_files_that_are_no_results_are_refused(tmp_path: Path, fields: dict[str, Any], said: str) -> None:
    a, b = evaluated(tmp_path, "a", 1), change(evaluated(tmp_path, "b", 2), **fields)
    with pytest.raises(ReelkinError, match=said):
        compare(CompareConfig(a=a, b=b))


def test_the_command_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    a, b = evaluated(tmp_path, "a", 1), evaluated(tmp_path, "b", 2, skill=1.5)
    output = tmp_path / "comparison.json"
    ran = run_here(main, a, b, "--output", output, "--resamples", "200")
    assert ran.code == 0, ran.log
    assert "mAP" in ran.said and "b better on" in ran.said and "30 queries" in ran.said
    content = json.loads(output.read_text())
    assert content["dataset"] == "PAIRS" and content["resamples"] == 200
    assert {each["measure"] for each in content["measures"]} == {"mAP", "uAP"}
    assert run_here(main, a).code == 2
    assert run_here(main, a, b, "--resamples", "0").code == 2
    assert run_here(main, a, b, "--seed", "-1").code == 2
    assert run_here(main, a, tmp_path / "none.json").code == 1


def test_names_from_a_file_send_no_codes_to_the_terminal(tmp_path: Path) -> None:
    a = evaluated(tmp_path, "a", 1)
    content = json.loads(a.read_text())
    change(a, annotation="\x1b[2J", metrics={"\x1b[31muAP": 0.5}, queries={"\u202emAP": content["queries"]["mAP"]})
    text = compare(CompareConfig(a=a, b=a)).text()
    assert r"\x1b[2J" in text and r"\x1b[31muAP" in text and r"\u202emAP" in text
    assert "\x1b" not in text and "\u202e" not in text
