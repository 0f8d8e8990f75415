"""From label files to items, groups and what is left out."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.core.seeds import generator
from reelkin.train.data.labels import Labels, copies_in_groups, read_copies, read_groups, read_pairs, read_vcdb
from reelkin.train.data.positives import NO_GROUP, Positives, match_labels
from reelkin.train.objective.masks import NO_VIDEO

from .conftest import write_csv

SHARED = Path(__file__).resolve().parents[3] / "shared" / "annotations" / "vcdb.pickle"


def drawn(positives: Positives, times: int = 40) -> set[tuple[str, str]]:
    """Every (anchor, positive) that comes up."""
    rng = generator("test")
    names = positives.video_ids
    found = [positives.draw(item, rng) for item in range(positives.num_items) for _ in range(times)]
    return {(names[anchor], names[positive]) for anchor, positive in found}


def group_sets(positives: Positives) -> dict[str, set[int]]:
    return {
        name: set(row.tolist()) - {NO_GROUP} for name, row in zip(positives.video_ids, positives.groups, strict=True)
    }


@pytest.mark.parametrize("header", [("query", "video"), ("anchor", "positive")])
def test_pairs_are_drawn_in_both_directions_and_chains_make_one_group(tmp_path: Path, header: tuple[str, str]) -> None:
    path = write_csv(tmp_path / "pairs.csv", header, ("a", "b"), ("b", "c"), ("d", "e"), ("a", "b"))
    positives = match_labels(["e", "d", "c", "b", "a", "x"], read_pairs(path))
    assert positives.num_items == 3
    assert drawn(positives) == {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b"), ("d", "e"), ("e", "d")}
    groups = group_sets(positives)
    assert groups["a"] == groups["b"] == groups["c"]
    assert len({frozenset(each) for each in groups.values()}) == 3


def test_missing_videos_are_counted_and_still_join_what_is_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "pairs.csv", ("query", "video"), ("a", "gone"), ("gone", "b"), ("c", "d"), ("c", "c"))
    positives = match_labels(["a", "b", "c", "d"], read_pairs(path))
    assert drawn(positives) == {("c", "d"), ("d", "c")}
    assert positives.summary == "1 of 3 pairs of pairs.csv, 2 without features of both videos"
    assert [str(finding) for finding in positives.findings] == [
        "pairs of a video with itself, left out: 1 ('c')",
        "labelled videos without features, left out: 1 ('gone')",
    ]
    groups = group_sets(positives)
    assert groups["a"] == groups["b"], "two copies of a missing original show the same thing"


def test_groups_give_every_member_as_anchor_and_all_others_as_positives(tmp_path: Path) -> None:
    rows = [("a1", "A"), ("a2", "A"), ("a3", "A"), ("b1", "B"), ("alone", ""), ("c1", "C"), ("c2", "C")]
    path = write_csv(tmp_path / "groups.csv", ("video_id", "group"), *rows)
    positives = match_labels(["c1", "a3", "a2", "a1", "b1", "alone", "free"], read_groups(path))
    assert drawn(positives) == {(a, b) for a in ("a1", "a2", "a3") for b in ("a1", "a2", "a3") if a != b}
    assert positives.num_items == 3
    assert len({frozenset(each) for each in group_sets(positives).values()}) == 5
    assert str(positives.findings[0]) == "labelled videos without features, left out: 1 ('c2')"


def test_copies_and_their_source_are_a_group(tmp_path: Path) -> None:
    header = ("copy_id", "source_id", "strength", "other_source_id")
    rows = [
        ("s__1", "s", "easy", ""),
        ("s__2", "s", "hard", "t"),
        ("s__2", "s", "hard", "t"),
        ("t__1", "t", "easy", ""),
    ]
    positives = match_labels(
        ["s", "t", "s__1", "s__2", "t__1"], read_copies(write_csv(tmp_path / "e.csv", header, *rows))
    )
    assert ("s__1", "s__2") in drawn(positives) and ("s__2", "t") not in drawn(positives)
    groups = group_sets(positives)
    assert groups["s__2"] == groups["s"] | groups["t"], "it shows both"
    assert not groups["s"] & groups["t"], "but does not make its two sources one"


def test_copies_join_the_groups_of_their_sources(tmp_path: Path) -> None:
    rows = [("s__1", "s"), ("t__1", "t"), ("u__1", "u")]
    copies = read_copies(write_csv(tmp_path / "edits.csv", ("copy_id", "source_id"), *rows))
    groups = read_groups(write_csv(tmp_path / "g.csv", ("video_id", "group"), ("s", "u"), ("t", "u"), ("x", "u")))
    positives = match_labels(["s", "t", "u", "x", "s__1", "t__1", "u__1"], copies_in_groups(copies, groups))
    found = group_sets(positives)
    assert found["s__1"] == found["t__1"] == found["t"] == found["x"]
    assert found["u__1"] == found["u"] != found["s"], "a group named like a source is not that source"
    assert ("s__1", "t") in drawn(positives)


def test_without_labels_every_video_is_its_own_positive() -> None:
    positives = match_labels(["b", "a"], None)
    assert drawn(positives) == {("a", "a"), ("b", "b")}
    assert len(np.unique(positives.groups)) == 2


def test_held_out_videos_take_their_whole_component_and_what_shows_a_part_with_them() -> None:
    labels = Labels("x", groups={"a": "A", "a1": "A", "b": "B", "b1": "B", "c": "C", "c1": "C"}, overlaps=[("b1", "a")])
    positives = match_labels(["a", "a1", "b", "b1", "c", "c1"], labels, held_out=frozenset({"a1"}))
    assert positives.video_ids == ["b", "c", "c1"]
    assert drawn(positives) == {("c", "c1"), ("c1", "c")}


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "pairs.csv", ("query", "video"), ("x", "y"))
    with pytest.raises(ReelkinError, match=r"nothing to train on: none of the 2 videos of pairs\.csv"):
        match_labels(["a"], read_pairs(path))


def test_digest_sees_every_change() -> None:
    def digest(**changes: object) -> str:
        content = {"source": "x", "groups": {"a": "A", "b": "A"}, "negatives": []} | changes
        return match_labels(["a", "b", "c"], Labels(**content)).digest()  # type: ignore[arg-type]

    assert digest() == digest(source="renamed")
    assert (
        len({digest(), digest(groups={"a": "A", "c": "A"}), digest(negatives=["c"]), digest(overlaps=[("c", "a")])})
        == 4
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("one,two\na,b\n", "needs a header with the columns query,video or anchor,positive"),
        ("query,video\na,\n", "line 2: an empty video"),
        ("query,video\n,b\n", "line 2: an empty query"),
        ("", "needs a header"),
    ],
)
def test_faulty_pair_files_are_refused_with_the_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(content)
    with pytest.raises(ReelkinError, match=message):
        read_pairs(path)


def test_other_faults_of_files(tmp_path: Path) -> None:
    with pytest.raises(ReelkinError, match=r"cannot read .*nowhere\.csv"):
        read_pairs(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes(b"query,video\ncaf\xe9,b\n")
    with pytest.raises(ReelkinError, match="as CSV in UTF-8"):
        read_pairs(tmp_path / "latin.csv")
    twice = write_csv(tmp_path / "twice.csv", ("video_id", "group"), ("a", "A"), ("a", "B"))
    with pytest.raises(ReelkinError, match="puts 'a' into the groups 'A' and 'B'"):
        read_groups(twice)


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffquery,video\na,b\n", encoding="utf-8")
    assert read_pairs(path).pairs == [("a", "b")]


def test_vcdb_pickle_gives_pairs_and_background(tmp_path: Path) -> None:
    content = {
        "video_pairs": [{"videos": ["a", "b"], "overlap": [0.5, 0.5]}],
        "index": ["a", "b"],
        "negs": ["n", "n", "m"],
    }
    path = tmp_path / "vcdb.pickle"
    path.write_bytes(pickle.dumps(content))
    labels = read_vcdb(path)
    assert labels.pairs == [("a", "b")] and labels.negatives == ["n", "m"]
    positives = match_labels(["a", "b", "m", "other"], labels)
    assert [positives.video_ids[video] for video in positives.negatives] == ["m"]
    path.write_bytes(pickle.dumps({"video_pairs": [("a", "b")]}))
    with pytest.raises(ReelkinError, match="is not the VCDB training annotation"):
        read_vcdb(path)


@pytest.mark.skipif(not SHARED.exists(), reason="the published annotation is not beside the project")
def test_published_vcdb_has_its_known_counts() -> None:
    labels = read_vcdb(SHARED)
    assert len(labels.pairs) == 5612 and len(labels.negatives) == 99176
    core = sorted({video_id for pair in labels.pairs for video_id in pair})
    positives = match_labels(core, labels)
    assert len(core) == 528 and positives.num_items == 5612
    assert len(np.unique(positives.groups)) == 29


def test_an_empty_group_slot_is_what_masks_take_for_empty() -> None:
    assert NO_GROUP == NO_VIDEO
