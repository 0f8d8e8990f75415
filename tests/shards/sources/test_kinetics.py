"""Kinetics: csv lists with traps, ids that begin with a dash, class names with spaces or underscores."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reelkin.core.errors import UsageError
from reelkin.tests.helpers.datasets import listed, missing, place_real_videos, present, rows, touch, write

DASH, LINE, GONE = "-3B32lodo2M", "__NrybzYzUg", "0wR5jVB-WPk"
CSV = (
    "label,youtube_id,time_start,time_end,split,is_cc\r\n"
    f"playing guitar,{DASH},59,69,train,0\r\n"
    f'"massaging person\'s head",{LINE},415,425,validate,1\r\n'
    f"abseiling,{GONE},417.0,427,train,0\r\n"
)


def test_clips_have_the_ids_of_their_names_and_the_csv_names_the_missing(tmp_path: Path) -> None:
    touch(tmp_path, f"train/playing_guitar/{DASH}_000059_000069.mp4", f"val/x/{LINE}_000415_000425.mkv")
    write(tmp_path / "annotations/train.csv", CSV)
    listing = listed(tmp_path, "kinetics")
    assert present(listing) == {
        f"{DASH}_000059_000069": f"train/playing_guitar/{DASH}_000059_000069.mp4",
        f"{LINE}_000415_000425": f"val/x/{LINE}_000415_000425.mkv",
    }
    assert missing(listing) == {f"{GONE}_000417_000427": "named by train.csv, but no file of the source bears this id"}
    assert listing.tables["videos"].column_names == [
        "video_id", "label", "split", "youtube_id", "time_start", "time_end",
    ]  # fmt: skip
    assert rows(listing, "videos") == [
        (f"{DASH}_000059_000069", "playing guitar", "train", DASH, "59", "69"),
        (f"{GONE}_000417_000427", "abseiling", "train", GONE, "417", "427"),
        (f"{LINE}_000415_000425", "massaging person's head", "val", LINE, "415", "425"),
    ]


def test_without_a_csv_label_and_split_come_from_the_folders(tmp_path: Path) -> None:
    place_real_videos(tmp_path, [f"train/playing_guitar/{DASH}_59_69.mp4", f"test/{LINE}_000415_000425.mp4"])
    assert rows(listed(tmp_path, "kinetics"), "videos") == [
        (f"{DASH}_000059_000069", "playing guitar", "train", DASH, "59", "69"),
        (f"{LINE}_000415_000425", "", "test", LINE, "415", "425"),
    ]
    inside = listed(tmp_path / "train", "kinetics")
    assert rows(inside, "videos") == [(f"{DASH}_000059_000069", "playing guitar", "train", DASH, "59", "69")]


def test_names_without_times_get_them_from_the_csv_where_there_is_one_clip(tmp_path: Path) -> None:
    touch(tmp_path, f"train/a/{DASH}.mp4", f"train/a/{LINE}.mp4")
    text = CSV + f"playing guitar,{LINE},1,11,train,0\r\n"
    write(tmp_path / "kinetics700.csv", text)
    listing = listed(tmp_path, "kinetics")
    # of two clips of one video nobody knows which it is
    assert set(present(listing)) == {f"{DASH}_000059_000069", LINE}
    assert set(missing(listing)) == {
        f"{GONE}_000417_000427",
        f"{LINE}_000415_000425",
        f"{LINE}_000001_000011",
    }


def test_a_test_list_without_labels_and_other_csv_files_do_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    touch(tmp_path, f"test/{DASH}_000059_000069.mp4")
    write(tmp_path / "test.csv", f" youtube_id , time_start,time_end,split\n{DASH},59,69,test\n")
    other = write(tmp_path / "downloads.csv", "url,status\nhttp://example.org,404\n")
    write(tmp_path / "empty.csv", "")
    write(tmp_path / "damaged.csv", b"\x00\xff" * 100)
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path, "kinetics")
    assert rows(listing, "videos") == [(f"{DASH}_000059_000069", "", "test", DASH, "59", "69")]
    assert f"{other} has not the columns youtube_id, time_start, time_end, but url, status" in caplog.text
    with pytest.raises(UsageError, match="downloads.csv has not the columns"):
        listed(tmp_path, "kinetics", annotations=(other,))


def test_bad_rows_are_named_and_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"train/a/{DASH}_000059_000069.mp4")
    path = write(tmp_path / "train.csv", CSV + "abseiling,short,1,2,train,0\nabseiling\nabseiling,#NAME?,,,\n")
    assert len(listed(tmp_path, "kinetics").inputs) == 3
    assert f"{path}: 3 lines are left out: line 5" in caplog.text


def test_a_clip_in_two_lists_keeps_its_first_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"train/a/{DASH}_000059_000069.mp4")
    write(tmp_path / "a.csv", CSV)
    write(tmp_path / "b.csv", f"label,youtube_id,time_start,time_end,split\nstrumming,{DASH},59,69,val\n")
    row = rows(listed(tmp_path, "kinetics"), "videos")[0]
    assert row[:3] == (f"{DASH}_000059_000069", "playing guitar", "train")
    assert "1 clips stand in the lists with two labels or splits; the first counts" in caplog.text


def test_lists_of_classes_and_clips_are_read(tmp_path: Path) -> None:
    touch(tmp_path, f"videos_train/playing_guitar/{DASH}_000059_000069.mp4")
    write(
        tmp_path / "kinetics400_train_list_videos.txt",
        f"playing_guitar/{DASH}_000059_000069.mp4 232\nabseiling/{GONE}_000417_000427.mp4 0\n",
    )
    write(tmp_path / "kinetics400_val_list_videos.txt", f"val/playing_guitar/{LINE}_000415_000425.mp4 232\n")
    listing = listed(tmp_path, "kinetics")
    assert [row[:3] for row in rows(listing, "videos")] == [
        (f"{DASH}_000059_000069", "playing guitar", "train"),
        (f"{GONE}_000417_000427", "abseiling", "train"),
        (f"{LINE}_000415_000425", "playing guitar", "val"),
    ]
    assert len(missing(listing)) == 2
