"""What all data-set layouts share: wrong folders, id lists, patterns, several sources, annotation files, size."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from pyarrow import csv

from reelkin.core.errors import Reason, UsageError
from reelkin.shards.sources.dataset import id_pattern
from reelkin.shards.sources.inputs import SourceOptions
from reelkin.shards.sources.listing import LAYOUTS, list_videos
from reelkin.tests.helpers.datasets import listed, missing, pairs, present, rows, touch, write
from reelkin.train.data.labels import read_pairs

DATA_SETS = ["fivr", "fivr5k", "vcdb", "cc_web_video", "evve", "svd", "ucf101", "hmdb51", "kinetics"]

A, B, C = "AAAAAAAAAAA", "-BBBBBBBBBB", "_CCCCCCCCC-"


@pytest.mark.parametrize("layout", DATA_SETS)
def test_a_wrong_folder_is_a_usage_error_that_says_what_was_expected_and_what_is_there(
    layout: str, tmp_path: Path
) -> None:
    touch(tmp_path, "holiday/one.mp4", "holiday/two.mp4", "holiday/notes.doc", "work/three.mov")
    with pytest.raises(UsageError) as caught:
        listed(tmp_path, layout)
    message = str(caught.value)
    assert f"the layout {layout} expects {LAYOUTS[layout].tree}" in message
    assert "found: 2 .mp4" in message and "1 .mov" in message and "1 .doc" in message
    assert "the folders holiday, work" in message
    with pytest.raises(UsageError, match=f"nowhere does not exist; the layout {layout} expects a folder"):
        listed(tmp_path / "nowhere", layout)
    with pytest.raises(UsageError, match="one.mp4 is a file; the layout"):
        listed(tmp_path / "holiday/one.mp4", layout)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="found: no files, no folders"):
        listed(tmp_path / "empty", layout)


@pytest.mark.parametrize("layout", DATA_SETS)
def test_annotations_that_do_not_exist_or_are_of_another_kind_are_usage_errors(layout: str, tmp_path: Path) -> None:
    touch(tmp_path / "set", f"{A}.mp4")
    with pytest.raises(UsageError, match="gone does not exist; give a file, or a folder of annotation files"):
        listed(tmp_path / "set", layout, annotations=(tmp_path / "gone",))
    touch(tmp_path, "other/clip.mp4")
    with pytest.raises(UsageError, match=f"holds no annotation file of the layout {layout}"):
        listed(tmp_path / "set", layout, annotations=(tmp_path / "other",))


def test_a_list_of_ids_takes_exactly_its_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "set", f"{A}.mp4", f"{B}.webm")
    ids = write(tmp_path / "mine.txt", f"\ufeff{B}.mp4\r\n\r\n {C} \nno id\n{B}\n")
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path / "set", "fivr", ids=ids)
    assert present(listing) == {B: f"{B}.webm"}
    assert missing(listing) == {C: "named by mine.txt, but no file of the source bears this id"}
    assert "1 lines are no ids and are left out: line 4: 'no id'" in caplog.text
    assert "1 video files are left out" in caplog.text and "1 of 2 named videos are there, 1 missing" in caplog.text


def test_a_list_without_ids_or_without_any_file_is_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path / "set", f"{A}.mp4")
    with pytest.raises(UsageError, match=r"holds no id of the data set; it needs one a line \(line 1: 'title'\)"):
        listed(tmp_path / "set", "fivr", ids=write(tmp_path / "bad.txt", "title\nmore\n"))
    with pytest.raises(UsageError, match="none of the 1 videos that .*other.txt names lies in"):
        listed(tmp_path / "set", "fivr", ids=write(tmp_path / "other.txt", C))
    with pytest.raises(UsageError, match="cannot read"):
        listed(tmp_path / "set", "fivr", ids=tmp_path / "gone.txt")


@pytest.mark.parametrize(
    ("pattern", "name", "video_id"),
    [
        ("{id}.*", "a.b.mp4", "a.b"),
        ("{id}.*", "x/a.mp4", None),
        ("./{id}/video.*", "a/video.mp4", "a"),
        ("{id}/video.*", "a/b/video.mp4", None),
        ("**/{id}.mp4", "a.mp4", "a"),
        ("**/{id}.mp4", "x/y/a.mp4", "a"),
        ("part?/v_{id}*", "part1/v_a", "a"),
        ("*/{id}[1].mp4", "x/a[1].mp4", "a"),
        ("*/{id}[1].mp4", "x/a1.mp4", None),
        ("* [{id}].*", "A title [with brackets] [-abc].f137.mp4", "-abc"),
    ],
)
def test_a_pattern_stays_in_its_folders_and_takes_other_signs_as_they_are(
    pattern: str, name: str, video_id: str | None
) -> None:
    match = id_pattern(pattern).fullmatch(name)
    assert (match and match["id"]) == video_id


def test_a_pattern_without_its_id_is_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}/clip.mp4")
    assert present(listed(tmp_path, "fivr", pattern="{id}/clip.*")) == {A: f"{A}/clip.mp4"}
    for pattern in ("*.mp4", "{id}/{id}.mp4"):
        with pytest.raises(UsageError, match="must hold {id} once"):
            listed(tmp_path, "fivr", pattern=pattern)
    with pytest.raises(UsageError, match="holds no video of the data set where '{id}/video.\\*' says"):
        listed(tmp_path, "fivr", pattern="{id}/video.*")


def test_a_data_set_on_two_disks_misses_only_what_neither_has(tmp_path: Path) -> None:
    touch(tmp_path / "one", f"{A}.mp4")
    touch(tmp_path / "two", f"{B}.mp4")
    write(tmp_path / "annotation.json", f'{{"{A}": {{"ND": ["{B}", "{C}"]}}}}')
    options = SourceOptions(annotations=(tmp_path / "annotation.json",))
    listing = list_videos([tmp_path / "one", tmp_path / "two"], "fivr", options)
    assert set(present(listing)) == {A, B} and set(missing(listing)) == {C}
    assert pairs(listing) == [(A, B, "ND"), (A, C, "ND")]
    assert rows(listing, "videos") == [(B, "database", ""), (A, "query", ""), (C, "database", "")]
    swapped = list_videos([tmp_path / "two", tmp_path / "one"], "fivr", options)
    assert swapped.tables == listing.tables and swapped.inputs == listing.inputs


def test_of_a_list_one_disk_may_have_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "one", f"{A}.mp4")
    touch(tmp_path / "two", f"{B}.mp4")
    options = SourceOptions(ids=write(tmp_path / "mine.txt", f"{B}\n{C}\n"))
    listing = list_videos([tmp_path / "one", tmp_path / "two"], "fivr", options)
    assert set(present(listing)) == {B} and set(missing(listing)) == {C}


def test_tables_written_as_csv_are_what_training_and_evaluation_read(tmp_path: Path) -> None:
    touch(tmp_path / "set", f"{A}.mp4")
    write(tmp_path / "set/annotation.json", f'{{"{A}": {{"ND": ["{B}"], "CS": ["{C}", "{B}"]}}}}')
    csv.write_csv(listed(tmp_path / "set", "fivr").tables["pairs"], tmp_path / "pairs.csv")
    assert read_pairs(tmp_path / "pairs.csv").pairs == [(A, B), (A, C)]
    header, first = (tmp_path / "pairs.csv").read_text().splitlines()[:2]
    assert header.replace('"', "") == "query,video,label,query_start,query_end,video_start,video_end"
    assert first.replace('"', "") == f"{A},{B},CS,,,,"


def test_undecodable_names_get_rows_of_their_own_in_every_table(tmp_path: Path) -> None:
    folder = tmp_path / "core_dataset" / "t"
    folder.mkdir(parents=True)
    for name in (b"caf\xe9.mp4", b"new\nline.mp4"):
        Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(b"x")
    write(tmp_path / "annotation/t.txt", b"caf\xe9.mp4,other.mp4,0:01,0:02,0:03,0:04\n")
    listing = listed(tmp_path, "vcdb")
    assert [(i.video_id, i.reason) for i in listing.inputs] == [
        ("caf\\xe9", Reason.BAD_ID),
        ("new\\x0aline", Reason.BAD_ID),
        ("other", Reason.MISSING),
    ]
    assert {row[0] for row in rows(listing, "videos")} == {"caf\\xe9", "new\\x0aline", "other"}
    assert pairs(listing) == [("caf\\xe9", "other", "copy")]


def test_two_files_of_one_id_are_one_input_and_one_duplicate(tmp_path: Path) -> None:
    touch(tmp_path, f"{A}.mp4", f"{A}.webm")
    assert [(i.video_id, i.name, i.reason) for i in listed(tmp_path, "fivr").inputs] == [
        (A, f"{A}.mp4", None),
        (A, f"{A}.webm", Reason.DUPLICATE_ID),
    ]


def test_links_to_folders_are_named_and_not_followed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path / "disk2", f"{B}.mp4")
    touch(tmp_path / "set", f"{A}.mp4")
    (tmp_path / "set/more").symlink_to(tmp_path / "disk2")
    assert set(present(listed(tmp_path / "set", "fivr"))) == {A}
    assert "set/more is a link to a folder and not followed" in caplog.text


def test_two_hundred_thousand_ids_are_listed_in_seconds(tmp_path: Path) -> None:
    ids = [f"{i:011d}" for i in range(200_000)]
    (tmp_path / "set").mkdir()
    for video_id in ids[::10]:
        (tmp_path / "set" / f"{video_id}.mp4").touch()
    write(tmp_path / "set/youtube_ids.txt", "\n".join(ids))
    start = time.process_time()
    listing = listed(tmp_path / "set", "fivr")
    assert time.process_time() - start < 20  # about 3 s
    assert len(present(listing)) == 20_000 and len(missing(listing)) == 180_000
