"""FIVR-200K and FIVR-5K: two ways to store the files, two versions of the annotation, missing videos."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest

from reelkin.core.errors import UsageError
from reelkin.tests.helpers.datasets import (
    listed,
    missing,
    pairs,
    place_real_videos,
    present,
    published,
    rows,
    touch,
    write,
    write_pickle,
)

Q1, Q2, A, B, C = "query1-----", "-_query2-_-", "aaaaaaaaaaa", "-bbbbbbbbbb", "ccccccccccc"

OLD = {
    "5k": {"queries": [Q1], "database": {A, Q2}},
    "200k": {"queries": [Q1, Q2], "database": {Q1, Q2, A, B}},
    "annotation": {
        Q1: {"ND": [A, A, Q1], "DS": [A], "DA": ["CS", "DS", "ND"], "IS": [C, Q2]},
        Q2: {"CS": [B]},
    },
}


def test_ids_come_from_file_names_or_from_folder_names(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4", f"deeper/{B}.mkv", f"{C}/video.webm", f"{C}/video.info.json", f"{Q1}.mp4.part")
    listing = listed(tmp_path, "fivr")
    assert present(listing) == {A: f"{A}.mp4", B: f"deeper/{B}.mkv", C: f"{C}/video.webm"}
    assert listing.ignored == Counter({".json": 1, ".part": 1}) and listing.tables == {}


def test_a_file_whose_name_is_no_id_is_left_out_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"{A}.mp4", "intro.mp4")
    assert set(present(listed(tmp_path, "fivr"))) == {A}
    assert "1 video files are left out, they bear no id of the data set: intro.mp4" in caplog.text


def test_the_list_of_ids_beside_the_videos_says_what_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, f"videos/{A}.mp4", f"videos/{C}.mp4")
    write(tmp_path / "dataset/youtube_ids.txt", f"{A}\n{B}\n")
    write(tmp_path / "dataset/annotation.json", json.dumps({Q1: {"ND": [A, C]}}))
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path, "fivr")
    assert set(present(listing)) == {A, C}  # a file that the list does not name is an input all the same
    assert "1 video files are taken that no list of the data set names" in caplog.text
    assert missing(listing) == {B: "named by youtube_ids.txt, but no file of the source bears this id"}
    assert pairs(listing) == [(Q1, A, "ND"), (Q1, C, "ND")]
    roles = {B: "database", A: "database", C: "", Q1: "query"}
    assert rows(listing, "videos") == [(video_id, roles[video_id], "") for video_id in sorted(roles)]


def test_the_old_annotation_is_checked_id_by_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"{A}.mp4")
    write_pickle(tmp_path / "fivr.pickle", OLD)
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path, "fivr")
    assert "3 entries are no YouTube ids and are left out: DA 3" in caplog.text
    assert "5 rows of pairs (1 of a video with itself and 1 that stood there already left out)" in caplog.text
    expected = [(Q2, B, "CS"), (Q1, Q2, "IS"), (Q1, A, "DS"), (Q1, A, "ND"), (Q1, C, "IS")]
    assert pairs(listing) == sorted(expected)
    assert {row[3:] for row in rows(listing, "pairs")} == {(None, None, None, None)}
    assert set(present(listing)) == {A} and set(missing(listing)) == {Q1, Q2, B}  # C is in no list of the data set
    assert {row[0]: row[1:] for row in rows(listing, "videos")} == {
        Q1: ("query", "5k"),
        Q2: ("query", "5k"),
        A: ("database", "5k"),
        B: ("database", "200k"),
    }


def test_fivr_5k_is_its_own_queries_database_and_pairs(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4", f"{B}.mp4", f"{Q1}.mp4")
    annotation = write_pickle(tmp_path / "fivr.pickle", OLD)
    listing = listed(tmp_path, "fivr5k")
    assert set(present(listing)) == {A, Q1} and set(missing(listing)) == {Q2}
    assert pairs(listing) == sorted([(Q1, A, "ND"), (Q1, A, "DS"), (Q1, Q2, "IS")])
    roles = {Q1: "query", Q2: "database", A: "database"}  # Q2 is a query of the 200K only
    assert rows(listing, "videos") == [(video_id, roles[video_id], "5k") for video_id in sorted(roles)]
    annotation.unlink()
    with pytest.raises(UsageError, match="needs fivr.pickle, which says which videos FIVR-5K has"):
        listed(tmp_path, "fivr5k")


def test_two_versions_are_never_mixed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"{A}.mp4")
    old = write_pickle(tmp_path / "fivr.pickle", OLD)
    write(tmp_path / "annotation.json", json.dumps({Q1: {"DA": [B]}}))
    assert pairs(listed(tmp_path, "fivr")) == [(Q1, B, "DA")]
    assert "annotation.json, not from" in caplog.text and "give that file alone with --annotations" in caplog.text
    assert len(pairs(listed(tmp_path, "fivr", annotations=(old,)))) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[1, 2]", "should hold a dict of queries, it holds a list"),
        ('{"query1-----": ["ccccccccccc"]}', "query1----- should have a dict of labels, it has list"),
        ('{"query1-----": {"ND": "ccccccccccc"}}', "query1-----, ND should have a list of ids"),
        ('{"title": "something else"}', "names no query of FIVR"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_damaged_annotation_is_a_usage_error(text: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4")
    write(tmp_path / "annotation.json", text)
    with pytest.raises(UsageError, match=message):
        listed(tmp_path, "fivr")


@pytest.mark.parametrize(
    "content", [["a"], {"queries": []}, {"annotation": {Q1: {"ND": [A]}}, "200k": 3}, {"annotation": {}}]
)
def test_a_pickle_of_something_else_is_a_usage_error(content: object, tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4")
    write_pickle(tmp_path / "fivr.pickle", content)
    with pytest.raises(UsageError, match="annotations: .*fivr.pickle"):
        listed(tmp_path, "fivr")


def test_a_pickle_that_asks_for_code_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4")
    write(tmp_path / "fivr.pickle", b"cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    with pytest.raises(UsageError, match="refused as an annotation"):
        listed(tmp_path, "fivr")


def test_the_published_old_annotation_gives_the_measured_figures(tmp_path: Path) -> None:
    annotation = published("fivr.pickle")
    place_real_videos(tmp_path, ["wrC_Uqk3juY.mp4", "8ja0i5wV-io/video.mp4"])
    listing = listed(tmp_path, "fivr", annotations=(annotation,))
    assert len(present(listing)) == 2 and len(missing(listing)) == 225_960 - 2
    # one query lists itself under IS; the 322 entries of DA are names of labels
    assert Counter(label for _, _, label in pairs(listing)) == {"DS": 6132, "IS": 3580 - 1, "CS": 1892, "ND": 1325}
    assert len({query for query, _, _ in pairs(listing)}) == 100
    dsvr = {(query, video) for query, video, label in pairs(listing) if label in ("ND", "DS")}
    assert len(dsvr) == 7455
    assert Counter(row[1:] for row in rows(listing, "videos"))["query", "5k"] >= 50
    small = listed(tmp_path, "fivr5k", annotations=(annotation,))
    assert len(small.inputs) == 5049 and len({query for query, _, _ in pairs(small)}) == 50


def test_the_published_new_annotation_gives_the_measured_figures(tmp_path: Path) -> None:
    annotation = published("fivr_annotation.json")
    touch(tmp_path, "wrC_Uqk3juY.mp4")
    counts = Counter(label for _, _, label in pairs(listed(tmp_path, "fivr", annotations=(annotation,))))
    assert counts == {"DS": 6133, "IS": 3523 - 1, "CS": 1887, "ND": 1325, "DA": 3397}
