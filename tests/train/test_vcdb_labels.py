"""VCDB's training annotation as published: what is kept of it, and every fault counted and named."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ReelkinError
from reelkin.train.data.labels import read_vcdb
from reelkin.train.data.positives import match_labels

from .conftest import said, write_vcdb

SHARED = Path(__file__).resolve().parents[3] / "shared" / "annotations" / "vcdb.pickle"


def test_vcdb_pickle_gives_pairs_and_background(tmp_path: Path) -> None:
    path = write_vcdb(tmp_path / "vcdb.pickle", index=["a", "b", "n", "m"], negs=["n", "m"])
    labels = read_vcdb(path)
    assert labels.pairs == [("a", "b")] and labels.negatives == ["n", "m"] and labels.findings == ()
    positives = match_labels(["a", "b", "m", "other"], labels)
    assert [positives.video_ids[video] for video in positives.negatives] == ["m"]
    assert said(positives.findings) == {"negatives without features, left out": ("n",)}


def test_entries_that_cannot_be_written_out_are_counted_all_the_same(tmp_path: Path) -> None:
    twice: list[object] = []
    for _ in range(100):
        twice = [twice, twice]  # 2^100 lists, if one were to write them all
    deep = b"]" * 20_000 + b"a" * 19_999
    pairs = pickle.dumps([twice, {"videos": ["a", "b"], "overlap": [10**400, 10**5000]}], protocol=2)[2:-1]
    (tmp_path / "vcdb.pickle").write_bytes(
        b"\x80\x02}(X\x0b\x00\x00\x00video_pairs" + pairs + b"X\x04\x00\x00\x00negs](" + deep + b"X\x01\x00\x00\x00neu."
    )
    labels = read_vcdb(tmp_path / "vcdb.pickle")
    assert labels.pairs == [("a", "b")] and labels.negatives == ["n"]
    counts = {finding.what.partition(",")[0]: len(finding.names) for finding in labels.findings}
    assert counts == {
        "entries that are no pair of ids": 1,
        "overlaps that are no share from 0 to 1": 2,
        "background videos that are no ids": 1,
    }


def test_every_fault_of_a_vcdb_annotation_is_counted_and_named(tmp_path: Path) -> None:
    pairs: list[object] = [
        {"videos": ["a", "b"], "overlap": [27.2, 0.5]},
        {"videos": ["b", "a"], "overlap": [0.1, float("nan")]},
        {"videos": ["c", "c"]},
        {"videos": ["a", "DS"], "overlap": None},
        {"videos": ["a"]},
        {"videos": ["a", 7]},
        {"videos": ["a", ""]},
        "a b",
        {"videos": ("d", "e"), "overlap": (-1, "x")},
    ]
    negatives: list[object] = ["n", "n", "a", "IS", 3, "m"]
    labels = read_vcdb(
        write_vcdb(tmp_path / "v.pickle", video_pairs=pairs, index=["a", "b", "d", "n", "n"], negs=negatives)
    )
    assert labels.pairs == [("a", "b"), ("d", "e")] and labels.negatives == ["n", "m"]
    assert said(labels.findings) == {
        "overlaps that are no share from 0 to 1, not used": ("a, b: 27.2", "b, a: nan", "d, e: -1", "d, e: x"),
        "pairs given again, or the other way round, counted once": ("b, a",),
        "pairs of a video with itself, left out": ("c",),
        "names of labels in the place of ids, left out": ("a, DS", "IS"),
        "entries that are no pair of ids, left out": (
            "{'videos': ['a']}", "{'videos': ['a', 7]}", "{'videos': ['a', '']}", "'a b'",
        ),
        "background videos listed more than once, counted once": ("n",),
        "background videos that are no ids, left out": ("3",),
        "videos both in a pair and in the background, no negatives any more": ("a",),
        "videos of the index listed more than once, counted once": ("n",),
        "ids that the annotation's own index does not list, kept": ("e", "m"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "is not the VCDB training annotation"),
        ({"video_pairs": [("a", "b")]}, "is not the VCDB training annotation.*it holds"),
        ({"video_pairs": 3, "negs": []}, "is not the VCDB training annotation"),
        ({"video_pairs": [("a", "b")], "negs": []}, "none of its 1 pairs can be used"),
    ],
)
def test_other_pickles_are_no_vcdb_annotation(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "vcdb.pickle"
    path.write_bytes(pickle.dumps(content))
    with pytest.raises(ReelkinError, match=message):
        read_vcdb(path)


def test_a_pickle_that_asks_for_more_than_sets_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vcdb.pickle"
    path.write_bytes(pickle.dumps({"video_pairs": [], "negs": [Path("x")]}))
    with pytest.raises(ReelkinError, match="was refused as an annotation"):
        read_vcdb(path)


@pytest.mark.skipif(not SHARED.exists(), reason="the published annotation is not beside the project")
def test_published_vcdb_has_its_known_counts() -> None:
    labels = read_vcdb(SHARED)
    assert len(labels.pairs) == 5612 and len(labels.negatives) == 99176
    assert {what: len(names) for what, names in said(labels.findings).items()} == {
        "overlaps that are no share from 0 to 1, not used": 34,
        "background videos listed more than once, counted once": 4,
        "videos of the index listed more than once, counted once": 4,
    }
    core = sorted({video_id for pair in labels.pairs for video_id in pair})
    positives = match_labels(core, labels)
    assert len(core) == 528 and positives.num_items == 5612
    assert len(np.unique(positives.groups)) == 29
    whole = match_labels([*core, *labels.negatives], labels)
    assert len(np.unique(whole.groups)) == 29 + 99176 and len(whole.negatives) == 99176


@pytest.mark.skipif(not SHARED.exists(), reason="the published annotation is not beside the project")
def test_published_vcdb_without_its_background_and_some_videos_trains_on_what_is_there() -> None:
    labels = read_vcdb(SHARED)
    core = sorted({video_id for pair in labels.pairs for video_id in pair})
    positives = match_labels(core[:448], labels, max_missing_share=0.2)  # 80 were missing to a user of the original
    found = {what: len(names) for what, names in said(positives.findings).items()}
    assert found["labelled videos without features, left out"] == 80
    assert found["negatives without features, left out"] == 99176
    assert found["no background video is stored; negatives are drawn from all videos"] == 1
    assert len(positives.negatives) == 448 and 0 < positives.num_items < 5612
    with pytest.raises(ReelkinError, match=r"^178 of the 528 videos .*more than the share 0\.2\..*-share 0\.34$"):
        match_labels(core[:350], labels, max_missing_share=0.2)
