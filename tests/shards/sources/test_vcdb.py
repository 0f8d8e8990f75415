"""VCDB: core and background, segment files as people have them, and the published pickle."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reelkin.core.errors import UsageError
from reelkin.shards.sources.vcdb import seconds
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

A, B, C, D = (digit * 40 for digit in "abcd")
YOUTUBE, OTHER = "-background", "dQw4w9WgXcQ"


def core(root: Path) -> None:
    touch(root, f"core_dataset/baggio penalty/{A}.flv", f"core_dataset/baggio penalty/{B.upper()}.MP4")


def test_ids_are_the_stems_and_core_videos_have_topics(tmp_path: Path) -> None:
    core(tmp_path)
    touch(tmp_path, f"background_dataset/07/{YOUTUBE}.webm", f"background_dataset/{OTHER}.mp4")
    listing = listed(tmp_path, "vcdb")
    assert present(listing) == {
        A: f"core_dataset/baggio penalty/{A}.flv",
        B: f"core_dataset/baggio penalty/{B.upper()}.MP4",
        YOUTUBE: f"background_dataset/07/{YOUTUBE}.webm",
        OTHER: f"background_dataset/{OTHER}.mp4",
    }
    assert rows(listing, "videos") == [
        (YOUTUBE, "background", ""),
        (A, "core", "baggio penalty"),
        (B, "core", "baggio penalty"),
        (OTHER, "background", ""),
    ]
    assert "pairs" not in listing.tables


@pytest.mark.parametrize("inside", ["core_dataset", "core_dataset/baggio penalty", "."])
def test_the_core_alone_may_be_the_source_or_lie_deeper(inside: str, tmp_path: Path) -> None:
    core(tmp_path / "videos")
    listing = listed(tmp_path / "videos" / inside, "vcdb")
    assert set(present(listing)) == {A, B}
    assert rows(listing, "videos") == [(A, "core", "baggio penalty"), (B, "core", "baggio penalty")]


def test_segments_become_pairs_with_seconds(tmp_path: Path) -> None:
    core(tmp_path)
    write(
        tmp_path / "annotation/baggio penalty.txt",
        f"{A}.flv,{B}.MP4,00:00:05,00:01:10,01:00:00,01:01:05\r\n\r\n"
        f" {A}.flv , {C}.flv , 00:00:00 , 00:00:90 , 0:10 , 12.5 \r\n"
        f"{A}.flv,{B}.MP4,00:00:05,00:01:10,01:00:00,01:01:05\r\n"
        f"{B}.mp4,{B}.mp4,00:00:00,00:00:10,00:00:20,00:00:30",
    )
    listing = listed(tmp_path, "vcdb")
    assert rows(listing, "pairs") == [
        (A, B, "copy", 5.0, 70.0, 3600.0, 3665.0),
        (A, C, "copy", 0.0, 90.0, 10.0, 12.5),
    ]
    assert missing(listing) == {C: "named by baggio penalty.txt, but no file of the source bears this id"}
    assert rows(listing, "videos")[-1] == (C, "core", "baggio penalty")


def test_bad_lines_are_named_and_what_is_usable_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    core(tmp_path)
    path = write(
        tmp_path / "annotation/t.txt",
        f"{A}.flv,{B}.mp4,00:00:30,00:00:10,00:00:01,00:00:02\n"
        f"{A}.flv,{C}.mp4,00:00:01,00:00:02,-,??\n"
        f"{A}.flv,{D}.mp4\n"
        "a line of a diary, with a comma\n"
        f"{A}.flv,{B}.mp4,00:00:01\n",
    )
    with caplog.at_level(logging.WARNING):
        listing = listed(tmp_path, "vcdb")
    assert rows(listing, "pairs") == [
        (A, B, "copy", None, None, 1.0, 2.0),
        (A, C, "copy", 1.0, 2.0, None, None),
        (A, D, "copy", None, None, None, None),
    ]
    assert f"{path}: 2 lines are left out: line 4 ('a line of a diary, with a comma'); line 5" in caplog.text
    assert f"{path}: 2 lines are used in part: line 1" in caplog.text
    assert "it ends (00:00:10) before it starts (00:00:30)" in caplog.text and "'-' is no time" in caplog.text


def test_a_file_of_something_else_is_a_usage_error_with_its_first_line(tmp_path: Path) -> None:
    core(tmp_path)
    path = write(tmp_path / "annotation/t.txt", "\n{\\rtf1 Dear diary}\nmore\n")
    with pytest.raises(UsageError) as caught:
        listed(tmp_path, "vcdb")
    assert f"{path} is not what it should be, lines of the form videoA,videoB,startA" in str(caught.value)
    assert "it begins with line 2 (" in str(caught.value) and "Dear diary" in str(caught.value)
    path.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(UsageError, match="is not what it should be"):
        listed(tmp_path, "vcdb")


def test_an_empty_file_and_a_readme_do_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    core(tmp_path)
    write(tmp_path / "annotation/t.txt", "\n \n")
    write(tmp_path / "annotation/Readme.txt", "Dear user, ...\n")
    assert pairs(listed(tmp_path, "vcdb")) == []
    assert "t.txt is empty" in caplog.text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("00:00:00", 0.0),
        ("01:02:03", 3723.0),
        ("00:75:90.25", 4590.25),
        ("2:03", 123.0),
        ("7", 7.0),
        ("00: 01:00", 60.0),
        ("", None),
        ("1:2:3:4", None),
        ("-1:00", None),
        ("1e5", None),
        ("nan", None),
        ("٣", None),
    ],
)
def test_times_are_read_by_hand(text: str, expected: float | None) -> None:
    assert seconds(text) == expected


def test_the_pickle_names_the_ids_and_adds_pairs_that_the_segments_lack(tmp_path: Path) -> None:
    core(tmp_path)
    write(tmp_path / "annotation/t.txt", f"{B}.flv,{A}.flv,00:00:01,00:00:02,00:00:03,00:00:04\n")
    both = [{"videos": [A, B], "overlap": [0.5, 27.2]}, {"videos": [A, C], "overlap": [1, 1]}]
    content = {"video_pairs": both, "index": [A, B, C, YOUTUBE, OTHER, OTHER], "negs": [OTHER, OTHER]}
    write_pickle(tmp_path / "vcdb.pickle", content)
    listing = listed(tmp_path, "vcdb")
    assert pairs(listing) == [(A, C, "copy"), (B, A, "copy")]
    # there is no background here: its videos are no part of what was asked for
    assert set(present(listing)) == {A, B} and set(missing(listing)) == {C}
    touch(tmp_path, f"background_dataset/{YOUTUBE}.mp4")
    listing = listed(tmp_path, "vcdb")
    assert set(missing(listing)) == {C, OTHER}
    assert {row[0]: row[1:] for row in rows(listing, "videos")} == {
        A: ("core", "baggio penalty", ""),
        B: ("core", "baggio penalty", ""),
        C: ("core", "", ""),
        YOUTUBE: ("background", "", ""),
        OTHER: ("background", "", "yes"),
    }


def test_the_published_pickle_gives_the_measured_figures(tmp_path: Path) -> None:
    annotation = published("vcdb.pickle")
    sizes = place_real_videos(
        tmp_path, ["core_dataset/t/0a6a553c5d2d7eb7409eb580e7da01f60e3176f1.flv", "background_dataset/DmwObzQP15Y.mp4"]
    )
    listing = listed(tmp_path, "vcdb", annotations=(annotation,))
    assert len(listing.inputs) == 100_306 and len(missing(listing)) == 100_304  # 100,310 with 4 named twice
    assert {i.video_id: i.bytes for i in listing.inputs if i.reason is None} == dict(
        zip(("0a6a553c5d2d7eb7409eb580e7da01f60e3176f1", "DmwObzQP15Y"), sizes, strict=True)
    )
    assert len(pairs(listing)) == 5612 and len({video for pair in pairs(listing) for video in pair[:2]}) == 528
    videos = rows(listing, "videos")
    assert sum(row[1] == "core" for row in videos) == 528 and sum(row[3] == "yes" for row in videos) == 99_176
    (tmp_path / "background_dataset/DmwObzQP15Y.mp4").unlink()
    assert len(listed(tmp_path, "vcdb", annotations=(annotation,)).inputs) == 528
