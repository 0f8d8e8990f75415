"""Annotation files of the user's: what is wrong in them is refused or named, never run and never silent."""

from __future__ import annotations

import json
import lzma
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.evaluate.published import content
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.benchmarks import read_annotation
from reelkin.evaluate.published.content import packed, plain, read_content
from reelkin.evaluate.published.svd import normal_id
from reelkin.tests.helpers.datasets import write, write_pickle

A, B, C, D, E = (letter * 11 for letter in "abcde")
SHA = [letter * 40 for letter in "abcdef"]

FIVR: dict[str, Any] = {
    "5k": {"queries": [A], "database": {B, C, A}},
    "200k": {"queries": [A, D], "database": {A, B, C, E}},
    "annotation": {A: {"DS": [B, C], "IS": [A]}, D: {"ND": [E, E, "DS"], "XX": [B]}},
}
VCDB: dict[str, Any] = {
    "index": [*SHA[:3], E, E],
    "video_pairs": [
        {"videos": SHA[:2], "overlap": [0.5, 27.2]},
        {"videos": [SHA[1], SHA[0]], "overlap": [0.5, 0.2]},
        {"videos": [SHA[0], SHA[0]], "overlap": [1, 1]},
        {"videos": [SHA[0], "DS"], "overlap": [1, 1]},
    ],
}
CC_WEB: dict[str, Any] = {
    "index": {"1/1_1_Y": 1, "1/1_2_Y": 2, "2/2_1_G": 4},
    "queries": ["1/1_1_Y", "2/2_1_G"],
    "ground_truth": [{1: "E", 2: "x", 3: "S"}, {4: "E"}],
    "excluded": [{2, 3}, set()],
}
EVVE: dict[str, Any] = {
    "annotation": {"a": ({A}, {B, D}, {C}), "b": ({A, E}, {C}, set())},
    "queries": [A, E, A, "no id"],
    "database": [B, C],
}
PICKLES = {"FIVR-5K": FIVR, "FIVR-200K": FIVR, "VCDB": VCDB, "VCDB-CORE": VCDB, "CC_WEB_VIDEO": CC_WEB, "EVVE": EVVE}


def named(annotation: Annotation) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {problem.kind: (problem.count, problem.examples) for problem in annotation.problems}


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("dataset", PICKLES)
def test_a_hostile_pickle_is_refused_and_nothing_runs(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_pickle(tmp_path / "hostile.pickle", {**PICKLES[dataset], "more": Hostile()})
    with pytest.raises(UsageError, match=r"hostile.pickle was refused.*(system|posix)"):
        read_annotation(dataset, path)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("dataset", PICKLES)
def test_a_broken_file_is_refused_with_its_name(dataset: str, tmp_path: Path) -> None:
    whole = pickle.dumps(PICKLES[dataset], protocol=2)
    bad = {
        "cut.pickle": whole[: len(whole) // 2],
        "empty.pickle": b"",
        "list.pickle": pickle.dumps([1, 2]),
        "other.pickle": pickle.dumps({"a": 1}),
        "text.txt": b"a b c",
        "cut.json": b'{"a": ',
        "cut.json.xz": packed([], {})[:-3],
    }
    for name, data in bad.items():
        with pytest.raises(UsageError, match=name.replace(".", r"\.")):
            read_annotation(dataset, write(tmp_path / name, data))
    with pytest.raises(UsageError, match="gone.pickle is no file"):
        read_annotation(dataset, tmp_path / "gone.pickle")


@pytest.mark.parametrize(
    ("dataset", "change"),
    [
        ("FIVR-200K", {"annotation": {A: ["DS"]}}),
        ("FIVR-200K", {"annotation": {A: {"DS": B}}}),
        ("FIVR-200K", {"annotation": [A]}),
        ("FIVR-200K", {"200k": [A]}),
        ("FIVR-200K", {"200k": {"queries": [], "database": []}}),
        ("VCDB", {"video_pairs": [{"videos": [SHA[0]]}]}),
        ("VCDB", {"video_pairs": [{"videos": [SHA[0], 3]}]}),
        ("VCDB", {"video_pairs": [{"videos": SHA[:2], "overlap": "ab"}]}),
        ("VCDB", {"index": [A]}),
        ("VCDB", {"index": 3}),
        ("CC_WEB_VIDEO", {"queries": ["1/1_1_Y"]}),
        ("CC_WEB_VIDEO", {"ground_truth": [{"one": "E"}, {}]}),
        ("CC_WEB_VIDEO", {"ground_truth": [{1: 3}, {}]}),
        ("CC_WEB_VIDEO", {"index": [1, 2]}),
        ("EVVE", {"annotation": {"a": ({A}, {B})}}),
        ("EVVE", {"annotation": {}}),
        ("EVVE", {"queries": 3}),
    ],
)
def test_another_structure_is_an_error_that_names_the_file(dataset: str, change: Any, tmp_path: Path) -> None:
    path = write_pickle(tmp_path / "odd.pickle", {**PICKLES[dataset], **change})
    with pytest.raises(ReelkinError, match=r"odd\.pickle|names no query"):
        read_annotation(dataset, path)


def test_fivr_names_what_is_polluted_doubled_or_absent(tmp_path: Path) -> None:
    annotation = read_annotation("FIVR-200K", write_pickle(tmp_path / "fivr.pickle", FIVR))
    assert annotation.version == "file"
    assert annotation.database == (A, B, C, E)
    assert annotation.labels == {A: {"DS": (B, C), "IS": (A,)}, D: {"ND": (E,)}}
    assert named(annotation) == {
        "entries under ND that are no video id; left out": (1, (f"{D}: DS",)),
        "ids listed twice under ND": (1, (E,)),
        "labels other than ND, DS, CS, IS, DA; left out": (1, (f"{D} XX",)),
        "queries that stand in their own list": (1, (A,)),
    }
    part = read_annotation("FIVR-5K", tmp_path / "fivr.pickle")
    assert (part.queries, part.database) == ((A,), (A, B, C))
    lacking = {**FIVR, "200k": {"queries": [A, D, C], "database": {A, B}}}
    annotation = read_annotation("FIVR-200K", write_pickle(tmp_path / "lacking.pickle", lacking))
    assert named(annotation)["positives that the database lacks; left out"] == (2, (f"{A}: {C}", f"{D}: {E}"))
    assert named(annotation)["queries that the annotation does not speak of"] == (1, (C,))
    fewer = {**FIVR, "200k": {"queries": [A], "database": {A, B}}}
    annotation = read_annotation("FIVR-200K", write_pickle(tmp_path / "fewer.pickle", fewer))
    assert named(annotation)["annotated queries that the list of queries lacks"] == (1, (D,))


def test_vcdb_names_odd_pairs(tmp_path: Path) -> None:
    annotation = read_annotation("VCDB", write_pickle(tmp_path / "vcdb.pickle", VCDB))
    assert annotation.queries == tuple(SHA[:3])
    assert annotation.database == (*SHA[:3], E)
    assert annotation.labels == {SHA[0]: {"copy": (SHA[1],)}, SHA[1]: {"copy": (SHA[0],)}}
    assert {kind: count for kind, (count, _) in named(annotation).items()} == {
        "ids listed twice in the index": 1,
        "pairs with an overlap outside 0 to 1; the pair is kept": 1,
        "pairs listed twice; they count once": 1,
        "pairs of a video with itself; left out": 1,
        "ids of pairs that are no core video; the pair is left out": 1,
    }


def test_cc_web_video_keeps_numbers_without_a_video_apart(tmp_path: Path) -> None:
    annotation = read_annotation("CC_WEB_VIDEO", write_pickle(tmp_path / "cc_web.pickle", CC_WEB))
    assert annotation.queries == ("1_1_Y", "2_1_G")
    assert annotation.labels["1_1_Y"] == {"E": ("1_1_Y",), "X": ("1_2_Y",), "S": ("#3",)}
    assert annotation.excluded["1_1_Y"] == {"1_2_Y", "#3"}
    assert "#3" not in annotation.database
    assert annotation.normal_id("1/1_2_Y") == annotation.normal_id("1_2_Y") == "1_2_Y"


def test_evve_names_what_belongs_nowhere(tmp_path: Path) -> None:
    annotation = read_annotation("EVVE", write_pickle(tmp_path / "evve.pickle", EVVE))
    assert annotation.groups == {A: "a", E: "b"}
    assert annotation.unclear == {A: frozenset({C})}
    assert annotation.labels == {A: {"event": (B,)}, E: {"event": (C,)}}
    assert named(annotation) == {
        "entries that are no video id; left out": (1, ("queries: no id",)),
        "queries listed twice": (1, (A,)),
        "positives that the database lacks; left out": (1, (f"a: {D}",)),
        "queries of two events; the first counts": (1, (f"{A}: a, b",)),
    }


def test_svd_reads_lines_and_the_list_of_unlabelled_videos(tmp_path: Path) -> None:
    lines = "1.mp4 2.mp4 1\n1.mp4 3.mp4 0\nnot a line\n1.mp4 3.mp4 1\n1.mp4 2.mp4 1\n4.mp4 2 0\n4.mp4 5.mp4 2\n"
    write(tmp_path / "metadata/test_groundtruth", lines)
    write(tmp_path / "metadata/unlabeled-data-id", "8.mp4\n9.mp4\n3.mp4\n8.mp4\n")
    alone = read_annotation("SVD", tmp_path / "metadata/test_groundtruth")
    assert alone.labels == {"1.mp4": {"1": ("2.mp4", "3.mp4"), "0": ()}, "4.mp4": {"1": (), "0": ("2.mp4",)}}
    assert named(alone) == {
        "lines that are no judgement (query video 0|1); left out": (
            2,
            ("test_groundtruth, line 3: not a line", "test_groundtruth, line 7: 4.mp4 5.mp4 2"),
        ),
        "pairs judged both ways; the last judgement counts": (1, ("1.mp4 3.mp4",)),
        "pairs judged twice alike; they count once": (1, ("1.mp4 2.mp4",)),
    }
    both = read_annotation("SVD", tmp_path / "metadata")
    assert both.database == ("2.mp4", "3.mp4", "8.mp4", "9.mp4")
    assert both.unlabeled == {"8.mp4", "9.mp4"}
    assert both.sha256 != alone.sha256
    assert named(both)["unlabelled videos that are judged all the same; taken as judged"] == (1, ("3.mp4",))
    assert [normal_id(text) for text in ("12", "12.webm", "12.mp4", "a.mp4")] == ["12.mp4"] * 3 + ["a.mp4"]
    with pytest.raises(UsageError, match="holds no line of the form"):
        read_annotation("SVD", write(tmp_path / "empty", "\n"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="folder holds no test_groundtruth"):
        read_annotation("SVD", tmp_path / "folder")


def test_pairs_are_read_from_any_csv(tmp_path: Path) -> None:
    text = "label,query,other,video\n1,a,,x\n0,a,,y\nTRUE,a,,x\n-1,a,,z\n0,a,,x\nyes,b,,b\n1,,,c\n"
    annotation = read_annotation("PAIRS", write(tmp_path / "pairs.csv", text))
    assert annotation.labels == {
        "a": {"positive": ("x",), "negative": ("y",)},
        "b": {"positive": ("b",), "negative": ()},
    }
    assert annotation.unclear == {"a": {"z"}}
    assert annotation.database is None
    assert {kind: count for kind, (count, _) in named(annotation).items()} == {
        "pairs judged twice alike; they count once": 1,
        "pairs judged differently; a positive judgement counts before others": 1,
        "pairs of a video with itself": 1,
        "rows without a query or a video; left out": 1,
    }
    unlabelled = read_annotation("PAIRS", write(tmp_path / "plain.csv", "query,video\na,x\na,y\n"))
    assert unlabelled.labels == {"a": {"positive": ("x", "y"), "negative": ()}}


def test_labels_of_pairs_are_the_users_choice_and_never_guessed(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.csv", "query,video,label\na,x,ND\na,y,XX\n")
    with pytest.raises(UsageError, match=r"row 1: the label 'ND' is none of 1, true.*name the labels"):
        read_annotation("PAIRS", path)
    annotation = read_annotation("PAIRS", path, positive_labels=("nd",))
    assert annotation.labels == {"a": {"positive": ("x",), "negative": ("y",)}}
    with pytest.raises(UsageError, match="has the heading a,b; expected query,video,label"):
        read_annotation("PAIRS", write(tmp_path / "other.csv", "a,b\n1,2\n"))
    with pytest.raises(UsageError, match="PAIRS needs --annotations"):
        read_annotation("PAIRS")


def test_names_and_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--dataset FIVR is none of FIVR-5K, "):
        read_annotation("FIVR")
    with pytest.raises(UsageError, match="only FIVR has an old and a new annotation"):
        read_annotation("EVVE", "new")
    with pytest.raises(UsageError, match="can be chosen for PAIRS, not for EVVE"):
        read_annotation("EVVE", judged_only=True)
    assert read_annotation("cc_web_video").dataset == "CC_WEB_VIDEO"


def test_the_hash_is_of_what_is_said_not_of_how(tmp_path: Path) -> None:
    first = read_annotation("EVVE", write_pickle(tmp_path / "a.pickle", EVVE))
    turned = {**EVVE, "queries": [E, A], "database": [C, B]}
    second = read_annotation("EVVE", write(tmp_path / "b.json.xz", packed(plain(turned), {"name": "evve"})))
    assert first.sha256 == second.sha256
    third = read_annotation("EVVE", write_pickle(tmp_path / "c.pickle", {**EVVE, "database": [B]}))
    assert third.sha256 != first.sha256
    rows = "query,video\na,x\nb,y\n"
    one = read_annotation("PAIRS", write(tmp_path / "one.csv", rows))
    same = read_annotation("PAIRS", write(tmp_path / "two.csv", "query,video\nb,y\na,x\n"))
    other = read_annotation("PAIRS", write(tmp_path / "three.csv", rows), judged_only=True)
    assert one.sha256 == same.sha256 != other.sha256


def test_a_shipped_file_of_another_format_or_version_is_refused(tmp_path: Path) -> None:
    import lzma

    for change, message in (({"format": "x"}, "its format is 'x'"), ({"version": 2}, "its version is 2")):
        value = {"format": "reelkin-annotation", "version": 1, "content": {}, **change}
        path = write(tmp_path / "odd.json.xz", lzma.compress(json.dumps(value).encode()))
        with pytest.raises(UsageError, match=message):
            read_content(path)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content, "MAX_UNPACKED", 1 << 20)
    (tmp_path / "bomb.json.xz").write_bytes(lzma.compress(b"[" + b" " * (1 << 21) + b"]"))
    (tmp_path / "cut.json.xz").write_bytes(packed([], {})[:-4])
    for name in ("bomb", "cut"):
        with pytest.raises(UsageError, match=f"{name}.json.xz is no annotation as shipped .*more than 1,048,576 bytes"):
            read_content(tmp_path / f"{name}.json.xz")


def test_ids_that_are_no_text_have_a_hash_too(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.json", json.dumps(VCDB | {"index": [*SHA[:3], "\ud800", "\udc80"]}))
    plain_one = write(tmp_path / "plain.json", json.dumps(VCDB | {"index": [*SHA[:3], "\ud800"]}))
    hashes = {read_annotation("VCDB", path).sha256 for path in (odd, plain_one)}
    assert len(hashes) == 2


def test_a_file_of_no_queries_is_named_not_the_shipped_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.json", "[1, 2]")
    with pytest.raises(UsageError, match=r"mine\.json should hold a dict of queries"):
        read_annotation("FIVR-5K", path)
