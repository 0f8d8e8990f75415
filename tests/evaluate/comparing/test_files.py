"""From two evaluations to their comparison: what is judged again, what is not and why, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelkin.core.config import as_dict
from reelkin.core.errors import ExitCode
from reelkin.core.files import publish_json
from reelkin.evaluate.compare import main as compare
from reelkin.evaluate.published.benchmarks import read_annotation
from reelkin.evaluate.published.config import PublishedConfig
from reelkin.evaluate.published.publishing import Evaluation, System
from reelkin.evaluate.published.saved_scores import write_scores
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.published.similarity_file import read_similarities
from reelkin.evaluate.run import main as evaluate
from tests.helpers.runs import Ran, run_here

QUERIES, VIDEOS = [f"q{n}" for n in range(12)], [f"v{n}" for n in range(30)]


def truth(path: Path, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    rows = [f"{q},{v},{rng.choice(['same', 'near', 'other', 'ignore'])}" for q in QUERIES for v in VIDEOS[::2]]
    path.write_text("query,video,label\n" + "\n".join(rows) + "\n")
    return path


def scores(path: Path, seed: int, *, queries: list[str] = QUERIES, videos: list[str] = VIDEOS) -> Path:
    """A similarity file with ties, whose queries list their videos each in another order."""
    rng = np.random.default_rng(seed)
    table = {q: {v: rng.integers(0, 10) / 10 for v in rng.permutation(videos).tolist()} for q in queries}
    path.write_text(json.dumps(table))
    return path


def evaluated(folder: Path, name: str, similarities: Path, **flags: Any) -> Path:
    """What evaluate/run.py writes, without the report and its plots."""
    given = {"dataset": "PAIRS", "annotations": str(folder / "truth.csv"), "positive_labels": "same, near"}
    config = PublishedConfig(**{**given, **flags}, similarities=similarities)
    annotation, found = config.annotation(), read_similarities(similarities)
    outcome = evaluate_scores(annotation, found, protocol=config.protocol)
    ordered = config.protocol == "legacy"
    saved = write_scores(folder / f"{name}.scores.safetensors", annotation, found, 10**9, ordered=ordered)
    evaluation = Evaluation(System(name, "", outcome), config=as_dict(config), scores=saved)
    publish_json(folder / f"{name}.json", evaluation.as_json())
    return folder / f"{name}.json"


def commanded(folder: Path, name: str, similarities: Path, *arguments: str | Path) -> Path:
    """The same by the command itself."""
    given: list[str | Path] = ["--dataset", "PAIRS", "--annotations", folder / "truth.csv"]
    output = folder / f"{name}.json"
    flags = ["--positive-labels", "same, near", "--similarities", similarities, "--output", output]
    ran = run_here(evaluate, *given, *flags, *arguments)
    assert ran.code == ExitCode.OK, ran.log
    return output


def two(folder: Path, **of_b: Any) -> tuple[Path, Path]:
    truth(folder / "truth.csv")
    a = evaluated(folder, "a", scores(folder / "sa.json", 1))
    return a, evaluated(folder, "b", scores(folder / "sb.json", 2, **of_b))


def compared(folder: Path, *arguments: str | Path) -> tuple[Ran, dict[str, Any]]:
    output = folder / "comparison.json"
    ran = run_here(compare, *arguments, "--output", output, "--resamples", "300")
    assert ran.code == ExitCode.OK, ran.log
    return ran, json.loads(output.read_text())


def change(path: Path, **fields: Any) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in (content | fields).items() if v is not ...}))
    return path


@pytest.mark.parametrize("protocol", ["corrected", "legacy"])
def test_figures_are_those_of_the_files_to_the_last_bit_where_both_have_the_same(protocol: str, tmp_path: Path) -> None:
    truth(tmp_path / "truth.csv")
    flags = ("--protocol", protocol, "--bootstrap", "50")
    a, b = (commanded(tmp_path, name, scores(tmp_path / f"s{name}.json", ord(name)), *flags) for name in "ab")
    ran, found = compared(tmp_path, a, b)
    assert found["judged_again"] and not found["notes"]
    for side, path in (("a", a), ("b", b)):
        assert {each["measure"]: each[side] for each in found["measures"]} == json.loads(path.read_text())["metrics"]
    assert all(each["low"] < each["mean"] < each["high"] for each in found["measures"])
    assert found["coverage"]["both"] == {"queries": [12, 12], "database": [30, 30]}
    assert all("[12 of 12 queries, 30 of 30 videos in both]" in line for line in ran.said.splitlines())


def test_what_one_lacks_is_left_out_of_both_and_every_line_says_what_both_have(tmp_path: Path) -> None:
    a, b = two(tmp_path, queries=QUERIES[3:], videos=VIDEOS[:20])
    ran, found = compared(tmp_path, a, b)
    alone = evaluated(tmp_path, "alone", scores(tmp_path / "part.json", 2, queries=QUERIES[3:], videos=VIDEOS[:20]))
    table = {q: {v: s for v, s in row.items() if v in VIDEOS[:20]} for q, row in read(tmp_path / "sa.json").items()}
    (tmp_path / "cut.json").write_text(json.dumps({q: row for q, row in table.items() if q in QUERIES[3:]}))
    cut = evaluated(tmp_path, "cut", tmp_path / "cut.json")
    for side, path in (("a", cut), ("b", alone)):
        assert {each["measure"]: each[side] for each in found["measures"]} == read(path)["metrics"]
    assert found["measures"][0]["a"] != read(a)["metrics"]["mAP"]
    lines = ran.said.splitlines()
    assert all(line.endswith("[9 of 12 queries, 20 of 30 videos in both]") for line in lines)
    assert "a: 12 of 12 queries, 30 of 30 videos" in lines[1] and "b: 9 of 12 queries, 20 of 25 videos" in lines[2]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_the_scores_lie_beside_the_results_unless_they_are_not_wanted(tmp_path: Path) -> None:
    truth(tmp_path / "truth.csv")
    given = scores(tmp_path / "s.json", 1)
    saved = read(commanded(tmp_path, "a", given))["scores_file"]
    assert saved["name"] == "a.scores.safetensors"
    assert (tmp_path / saved["name"]).stat().st_size == saved["bytes"] > 8 * 12 * 30
    assert read(commanded(tmp_path, "none", given, "--scores-gb", "0"))["scores_file"] is None
    assert not (tmp_path / "none.scores.safetensors").exists()
    ran = run_here(evaluate, "--dataset", "EVVE", "--similarities", given, "--scores-gb", "-1")
    assert ran.code == ExitCode.USAGE and "--scores-gb is -1" in ran.log


def without_scores(path: Path) -> str:
    (path.parent / "b.scores.safetensors").unlink()
    return "b lacks its scores, b.scores.safetensors; evaluate again with --output and keep"


def of_an_older_version(path: Path) -> str:
    change(path, scores_file=..., config=...)
    return "b names no file of its scores; evaluate again"


def truth_gone(path: Path) -> str:
    (path.parent / "truth.csv").unlink()
    return "the annotation of both cannot be had"


def truth_changed(path: Path) -> str:
    truth(path.parent / "truth.csv", seed=5)
    return "is another ground truth"


@pytest.mark.parametrize("lose", [without_scores, of_an_older_version, truth_gone, truth_changed])
def test_without_scores_or_truth_figures_stand_as_they_are_and_a_note_says_what_to_do(
    lose: Any, tmp_path: Path
) -> None:
    a, b = two(tmp_path, queries=QUERIES[2:], videos=VIDEOS[:20])
    said = lose(b)
    ran, found = compared(tmp_path, a, b)
    assert not found["judged_again"] and "both" not in found["coverage"]
    assert said in found["notes"][-1] and said in ran.said
    by_name = {each["measure"]: each for each in found["measures"]}
    assert by_name["uAP"]["a"] == read(a)["metrics"]["uAP"] and by_name["uAP"]["low"] is None
    common = "[10 of 12 queries in both; a searched in 30, b in 20 of 30 videos]"
    assert all(line.endswith(common) for line in ran.said.splitlines())


def test_a_truth_that_has_moved_can_be_given_and_another_is_refused(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    (tmp_path / "truth.csv").rename(tmp_path / "moved.csv")
    _, found = compared(tmp_path, a, b, "--annotations", tmp_path / "moved.csv")
    assert found["judged_again"]
    other = truth(tmp_path / "other.csv", seed=5)
    ran = run_here(compare, a, b, "--annotations", other)
    assert ran.code == ExitCode.USAGE and "other.csv is another ground truth" in ran.log
    assert read(a)["annotation_sha256"][:12] in ran.log
    assert run_here(compare, a, b, "--annotations", tmp_path / "none.csv").code != ExitCode.OK


def cut(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-10])
    return "b.scores.safetensors is cut off"


def of_another_run(path: Path) -> str:
    shutil.copy(path.with_name("a.scores.safetensors"), path)
    return "b.scores.safetensors holds the scores of another run"


@pytest.mark.parametrize("damage", [cut, of_another_run])
def test_scores_that_are_not_those_of_the_result_are_refused(damage: Any, tmp_path: Path) -> None:
    a, b = two(tmp_path)
    said = damage(tmp_path / "b.scores.safetensors")
    ran = run_here(compare, a, b)
    assert ran.code == ExitCode.FAILED and said in ran.log and ran.said == "" and "Traceback" not in ran.log


def test_a_name_of_scores_elsewhere_is_damage(tmp_path: Path) -> None:
    a, b = two(tmp_path)
    change(b, scores_file={"name": "../../etc/passwd", "bytes": 1, "sha256": "0"})
    ran = run_here(compare, a, b)
    assert ran.code == ExitCode.FAILED and "b.json is damaged" in ran.log


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    a, b = two(tmp_path, queries=QUERIES[:1])
    a = evaluated(tmp_path, "a", scores(tmp_path / "sa.json", 1, queries=QUERIES[1:]))
    ran = run_here(compare, a, b)
    assert ran.code == ExitCode.FAILED and "a and b have no query in common" in ran.log


def test_a_shipped_annotation_is_found_by_its_version(tmp_path: Path) -> None:
    annotation = read_annotation("FIVR-5K", "new")
    queries = [query for query in annotation.queries if annotation.labels.get(query, {}).get("DS")][:4]
    videos = [v for q in queries for v in annotation.labels[q]["DS"][:6] if v in set(annotation.database or ())]
    outputs = []
    for name, seed in (("a", 1), ("b", 2)):
        given = scores(tmp_path / f"{name}-s.json", seed, queries=queries, videos=list(dict.fromkeys(videos)))
        flags = {"dataset": "FIVR-5K", "annotations": "new", "positive_labels": ""}
        outputs.append(evaluated(tmp_path, name, given, **flags))
    _, found = compared(tmp_path, *outputs)
    assert found["judged_again"] and found["annotation"] == "new"
    assert {each["measure"] for each in found["measures"]} == {"DSVR", "CSVR", "ISVR", "DSVD", "CSVD", "ISVD"}
    ran = run_here(compare, *outputs, "--annotations", "old")
    assert ran.code == ExitCode.USAGE and "--annotations old is another ground truth" in ran.log


def test_one_query_has_no_interval_and_those_over_few_are_said_to_be_rough(tmp_path: Path) -> None:
    a, b = two(tmp_path, queries=QUERIES[:1])
    ran, found = compared(tmp_path, a, b)
    assert all(each["low"] is None and each["num_queries"] == 1 for each in found["measures"])
    assert "(no interval); 1 queries: b better on" in ran.said and not found["notes"]
    a, b = two(tmp_path, queries=QUERIES[:3])
    _, found = compared(tmp_path, a, b)
    assert found["notes"] == ["intervals are rough, drawn over few queries: mAP (3), uAP (3)"]


def test_events_have_paired_intervals_of_their_own_queries(tmp_path: Path) -> None:
    annotation = read_annotation("EVVE")
    by_event: dict[str, list[str]] = {}
    for query in annotation.queries:
        by_event.setdefault(annotation.groups[query], []).append(query)
    queries = [query for event in list(by_event)[:2] for query in by_event[event][:10]]
    videos = list(dict.fromkeys(v for q in queries for v in annotation.labels[q]["event"]))[:200]
    outputs = []
    for name, seed in (("a", 1), ("b", 2)):
        given = scores(tmp_path / f"{name}-s.json", seed, queries=queries, videos=videos)
        outputs.append(evaluated(tmp_path, name, given, dataset="EVVE", annotations="", positive_labels=""))
    ran, found = compared(tmp_path, *outputs)
    events = {each["measure"]: each for each in found["measures"] if each["measure"].startswith("events: ")}
    assert events and sum(each["num_queries"] for each in events.values()) == len(queries)
    for name, each in events.items():
        assert each["a"] == read(outputs[0])["metrics"]["events"][name.removeprefix("events: ")]
        assert each["low"] <= each["mean"] <= each["high"] and each["wins"] is not None
    assert "no interval" not in ran.said


@pytest.mark.parametrize("name", ["a.json", "b.json", "link.json"])
def test_a_comparison_is_not_written_over_what_it_compares(tmp_path: Path, name: str) -> None:
    two(tmp_path)
    (tmp_path / "link.json").symlink_to(tmp_path / "b.json")
    before = (tmp_path / name).read_bytes()
    ran = run_here(compare, tmp_path / "a.json", tmp_path / "b.json", "--output", tmp_path / name)
    assert ran.code == ExitCode.USAGE and "would be written over the result" in ran.log
    assert (tmp_path / name).read_bytes() == before
