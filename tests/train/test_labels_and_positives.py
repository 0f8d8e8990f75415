"""From label files to items, groups and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.seeds import generator
from reelkin.train.data.findings import Finding
from reelkin.train.data.labels import (
    Labels,
    LabelSettings,
    copies_in_groups,
    read_copies,
    read_groups,
    read_pairs,
)
from reelkin.train.data.positives import NO_GROUP, Positives, match_labels
from reelkin.train.objective.masks import NO_VIDEO

from .conftest import said, write_csv, write_vcdb


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


@pytest.mark.parametrize(
    ("content", "reader", "words"),
    [
        (
            "query,video\na,a\n",
            read_pairs,
            r"says of no two videos .*; pairs of a video with itself, left out: 1 \('a'\)",
        ),
        ("video_id,group\na,\nb,\n", read_groups, "says of no two videos"),
        ("video_id,group\na,1\nb,2\n", read_groups, "0 videos with a positive in 0 groups .* takes two videos"),
    ],
)
def test_labels_without_a_positive_say_what_was_left_out(
    tmp_path: Path, content: str, reader: Callable[[Path], Labels], words: str
) -> None:
    (tmp_path / "labels.csv").write_text(content)
    with pytest.raises(ReelkinError, match=rf"nothing to train on: .*{words}"):
        match_labels(["a", "b"], reader(tmp_path / "labels.csv"))


def test_the_summary_counts_groups_with_a_positive_and_videos_held_out() -> None:
    labels = Labels("labels", groups={"a": "1", "b": "1", "c": "2", "e": "3", "f": "3"})
    positives = match_labels(["a", "b", "c", "d", "e", "f"], labels, frozenset({"d", "e"}))
    assert positives.summary == "2 videos with a positive in 1 groups of labels, 3 videos held out"


def test_negatives_are_looked_for_among_what_is_embedded() -> None:
    one = Labels("labels", pairs=[("a", "b"), ("b", "c")])
    assert not match_labels(["a", "b", "c", "d"], one).has_negatives(drawn=False)
    assert match_labels(["a", "b", "c", "d"], one).has_negatives(drawn=True)
    assert not match_labels(["a", "b", "c"], one).has_negatives(drawn=True)
    assert match_labels(["a", "b", "c", "d"], Labels("two", pairs=[("a", "b"), ("c", "d")])).has_negatives(drawn=False)
    assert match_labels(["a", "b"], None).has_negatives(drawn=False)
    assert not match_labels(["a"], None).has_negatives(drawn=True)
    guest = Labels("copies", groups={"a": "1", "b": "1", "c": "2", "d": "2"}, overlaps=[("c", "a"), ("d", "a")])
    assert not match_labels(["a", "b", "c", "d"], guest).has_negatives(drawn=False), "they show a part of the other"


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
    assert read_pairs(tmp_path / "latin.csv").pairs == [("caf\udce9", "b")]  # as file names of such bytes are read
    twice = write_csv(tmp_path / "twice.csv", ("video_id", "group"), ("a", "A"), ("a", "B"))
    with pytest.raises(ReelkinError, match="puts 'a' into the groups 'A' and 'B'"):
        read_groups(twice)


def test_a_byte_order_mark_does_not_hide_the_first_column(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("\ufeffquery,video\na,b\n", encoding="utf-8")
    assert read_pairs(path).pairs == [("a", "b")]


def test_pairs_that_cannot_be_meant_are_left_out_counted_and_named(tmp_path: Path) -> None:
    rows = [("a", "b"), ("b", "a"), ("c", "c"), ("ND", "a"), ("b", "DS"), ("a", "b"), ("d", "d"), ("a", "c")]
    labels = read_pairs(write_csv(tmp_path / "pairs.csv", ("query", "video"), *rows))
    assert labels.pairs == [("a", "b"), ("a", "c")]
    assert said(labels.findings) == {
        "pairs given again, or the other way round, counted once": ("b, a", "a, b"),
        "pairs of a video with itself, left out": ("c", "d"),
        "names of labels in the place of ids, left out": ("ND, a", "b, DS"),
    }
    groups = group_sets(match_labels(["a", "b", "c", "x"], labels))
    assert groups["a"] == groups["b"] == groups["c"] != groups["x"]


def test_label_names_never_join_two_events(tmp_path: Path) -> None:
    rows = [("a", "b"), ("a", "ND"), ("c", "d"), ("c", "ND")]
    found = group_sets(match_labels(list("abcd"), read_pairs(write_csv(tmp_path / "p.csv", ("query", "video"), *rows))))
    assert found["a"] != found["c"]


def test_a_finding_names_ten_and_counts_all() -> None:
    text = str(Finding("odd", tuple(f"v{number}" for number in range(25))))
    assert text.startswith("odd: 25 ('v0', ") and text.endswith("'v9' ...)") and "v10" not in text


def test_videos_listed_twice_in_a_group_and_label_names_are_counted(tmp_path: Path) -> None:
    rows = [("a", "A"), ("a", "A"), ("b", "A"), ("DA", "A")]
    labels = read_groups(write_csv(tmp_path / "g.csv", ("video_id", "group"), *rows))
    assert labels.groups == {"a": "A", "b": "A"}
    assert said(labels.findings) == {
        "videos listed more than once, counted once": ("a",),
        "names of labels in the place of ids, left out": ("DA",),
    }


def test_copies_of_copies_of_themselves_and_of_several_sources(tmp_path: Path) -> None:
    rows = [("c2", "c1"), ("c1", "s"), ("d", "d"), ("e", "s"), ("e", "t"), ("f", "t"), ("x", "y"), ("y", "x")]
    labels = read_copies(write_csv(tmp_path / "edits.csv", ("copy_id", "source_id"), *rows))
    assert labels.groups == {"c2": "s", "c1": "s", "s": "s", "e": "s", "t": "t", "f": "t", "x": "x", "y": "x"}
    assert labels.overlaps == [("e", "t")]
    assert said(labels.findings) == {
        "copies of themselves, left out": ("d",),
        "copies of several sources, a positive of the first only and a negative of none": ("e",),
    }
    groups = group_sets(match_labels([*labels.groups, "d"], labels))
    assert groups["e"] == groups["s"] | groups["t"] and not groups["s"] & groups["t"]


def test_missing_features_beyond_the_share_are_refused_with_the_flag_that_allows_them(tmp_path: Path) -> None:
    rows = [("a", "b"), ("c", "d"), ("e", "f")]
    labels = read_pairs(write_csv(tmp_path / "pairs.csv", ("query", "video"), *rows))
    assert match_labels(list("abcde"), labels, max_missing_share=0.2).num_items == 2
    with pytest.raises(ReelkinError, match=r"2 of the 6 .* have no features \('e', 'f'\).*--max-missing-share 0\.34"):
        match_labels(list("abcd"), labels, max_missing_share=0.2)
    assert match_labels(list("abcd"), labels, max_missing_share=0.34).num_items == 2
    hundred = Labels("l", pairs=[(f"v{number}", f"v{number + 1}") for number in range(0, 100, 2)])
    # 0.29 * 100 is less than 29 in floating point: the share that the message advises has to be enough.
    assert match_labels([f"v{number}" for number in range(71)], hundred, max_missing_share=0.29).num_items == 35
    with pytest.raises(UsageError, match="--max-missing-share is 1.5"):
        LabelSettings(max_missing_share=1.5)


def test_without_swapping_the_anchor_is_the_first_of_its_pair(tmp_path: Path) -> None:
    labels = read_pairs(write_csv(tmp_path / "p.csv", ("query", "video"), ("b", "a"), ("b", "c")))
    one, both = (match_labels(list("abc"), labels, swap_pairs=swap) for swap in (False, True))
    assert drawn(one) == {("b", "a"), ("b", "c")}
    assert drawn(both) == {("b", "a"), ("b", "c"), ("a", "b"), ("c", "b")}
    assert one.digest() != both.digest()


def test_negatives_come_from_the_list_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "negatives.txt"
    path.write_text("x\n\ny\nx\ngone\na\n")
    settings = LabelSettings(vcdb=write_vcdb(tmp_path / "v.pickle", negs=["b2"]), negatives=path)
    found = match_labels(list("abxyz"), settings.read_labels(), negatives=settings.read_negatives())
    assert [found.video_ids[video] for video in found.negatives] == ["x", "y", "a"]
    assert said(found.findings) == {
        "ids that the annotation's own index does not list, kept": ("b2",),
        "negatives listed more than once, counted once": ("x",),
        "negatives without features, left out": ("gone",),
    }
    rng = generator("test")
    anchor = found.video_ids.index("b")
    names = {found.video_ids[video] for _ in range(50) for video in found.draw_negatives(anchor, 2, rng)}
    assert names == {"x", "y"}, "a is the anchor's positive"
    with pytest.raises(ReelkinError, match="none of the 1 ids of --negatives has features, such as 'q'"):
        match_labels(list("abxyz"), None, negatives=["q"])


def test_drawn_negatives_are_spread_evenly_and_repeat_only_when_they_must() -> None:
    labels = Labels("x", groups={"a": "A", "a1": "A", "b": "B", "b1": "B"}, overlaps=[("b1", "a")])
    found = match_labels(["a", "a1", "b", "b1", "c", "d", "e"], labels)
    rng = generator("test")
    rounds = [found.draw_negatives(0, 3, rng).tolist() for _ in range(400)]
    assert all(len(set(each)) == 3 for each in rounds)
    counts = np.bincount(np.concatenate(rounds), minlength=7)
    assert counts[[0, 1, 3]].sum() == 0, "neither its group nor what shows a part of it"
    assert counts[[2, 4, 5, 6]].min() > 240 and counts.sum() == 1200
    assert set(found.draw_negatives(0, 9, rng).tolist()) <= {2, 4, 5, 6}
    alone = match_labels(["a", "a1"], Labels("x", groups={"a": "A", "a1": "A"}))
    assert set(alone.draw_negatives(0, 4, rng).tolist()) <= {0, 1}, "masked later"


def test_an_empty_group_slot_is_what_masks_take_for_empty() -> None:
    assert NO_GROUP == NO_VIDEO
