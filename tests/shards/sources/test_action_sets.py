"""UCF101 and HMDB51: class folders, three splits, names that have caught people out."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reelkin.core.errors import UsageError
from reelkin.tests.helpers.datasets import listed, missing, place_real_videos, present, rows, touch, write

STANDING = "v_HandStandPushups_g01_c01"
MAKEUP, MAKEUP2 = "v_ApplyEyeMakeup_g08_c01", "v_ApplyEyeMakeup_g25_c07"


def ucf(root: Path) -> None:
    touch(root, f"UCF-101/ApplyEyeMakeup/{MAKEUP}.avi", f"UCF-101/HandstandPushups/{STANDING}.avi")
    lists = root / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 ApplyEyeMakeup\r\n37 HandstandPushups\r\n")
    write(lists / "trainlist01.txt", f"ApplyEyeMakeup/{MAKEUP}.avi 1\r\nHandstandPushups/{STANDING}.avi 37\r\n")
    write(lists / "testlist01.txt", f"ApplyEyeMakeup/{MAKEUP2}.avi\r\n")
    write(lists / "testlist02.txt", f"ApplyEyeMakeup/{MAKEUP}.avi\r\n")


def test_ucf101_gives_labels_groups_and_splits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ucf(tmp_path)
    with caplog.at_level(logging.WARNING):
        listing = listed(tmp_path, "ucf101")
    assert present(listing) == {
        MAKEUP: f"UCF-101/ApplyEyeMakeup/{MAKEUP}.avi",
        STANDING: f"UCF-101/HandstandPushups/{STANDING}.avi",
    }
    assert missing(listing) == {MAKEUP2: "named by testlist01.txt, but no file of the source bears this id"}
    assert listing.tables["videos"].column_names == [
        "video_id", "label", "label_number", "group", "split1", "split2", "split3",
    ]  # fmt: skip
    assert rows(listing, "videos") == [
        (MAKEUP, "ApplyEyeMakeup", "1", "g08", "train", "test", ""),
        (MAKEUP2, "ApplyEyeMakeup", "1", "g25", "test", "", ""),
        (STANDING, "HandstandPushups", "37", "g01", "train", "", ""),
    ]
    assert caplog.text == ""


def test_the_second_spelling_of_handstand_pushups_is_the_same_video(tmp_path: Path) -> None:
    ucf(tmp_path)
    folder = tmp_path / "UCF-101/HandstandPushups"
    (folder / f"{STANDING}.avi").rename(folder / "v_HandstandPushups_g01_c01.avi")
    write(tmp_path / "ucfTrainTestlist/testlist03.txt", "HandStandPushups/v_HandstandPushups_g01_c01.avi\n")
    listing = listed(tmp_path, "ucf101")
    assert STANDING in present(listing) and set(missing(listing)) == {MAKEUP2}
    assert rows(listing, "videos")[-1] == (STANDING, "HandstandPushups", "37", "g01", "train", "", "test")


def test_ucf101_without_lists_takes_the_labels_of_the_names(tmp_path: Path) -> None:
    names = [f"{STANDING}.avi", f"{MAKEUP}.mp4"]
    place_real_videos(tmp_path, names)
    listing = listed(tmp_path, "ucf101")
    assert [row[:4] for row in rows(listing, "videos")] == [
        (MAKEUP, "ApplyEyeMakeup", "", "g08"),
        (STANDING, "HandstandPushups", "", "g01"),
    ]


def test_a_split_list_of_something_else_is_a_usage_error(tmp_path: Path) -> None:
    ucf(tmp_path)
    write(tmp_path / "ucfTrainTestlist/trainlist03.txt", "see readme\n")
    with pytest.raises(UsageError, match="trainlist03.txt is not what it should be, lines of the form <class>/<video>"):
        listed(tmp_path, "ucf101")


ODD = "#122_Cleaning_Up_The_Beach_In_Chiba__Japan_pick_f_nm_np1_fr_bad_1"
BANG = "THE_WALLET_TRICK!!!_pick_f_cm_np1_fr_med_2"
CLIMB = "(Rad)Bob&Ann; 1 2_climb_stairs_u_cm_np1_le_med_0"
UNUSED = "ThePerfectScore_pick_u_nm_np1_ba_goo_3"


def test_hmdb51_reads_the_official_splits_and_odd_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, f"pick/{ODD}.avi", f"pick/{UNUSED}.avi", f"climb_stairs/climb_stairs/{CLIMB}.avi")
    splits = tmp_path / "testTrainMulti_7030_splits"
    write(splits / "pick_test_split1.txt", f"{ODD}.avi 1 \n{BANG}.avi 2 \n{UNUSED}.avi 0 \n")
    write(splits / "pick_test_split3.txt", f"{ODD}.avi 2 \n{BANG}.avi 9 \n")
    write(splits / "climb_stairs_test_split2.txt", f"{CLIMB}.avi\t1\n")
    listing = listed(tmp_path, "hmdb51")
    assert present(listing) == {
        ODD: f"pick/{ODD}.avi",
        UNUSED: f"pick/{UNUSED}.avi",
        CLIMB: f"climb_stairs/climb_stairs/{CLIMB}.avi",
    }
    assert missing(listing) == {BANG: "named by pick_test_split1.txt, but no file of the source bears this id"}
    assert sorted(rows(listing, "videos")) == sorted([
        (ODD, "pick", "", "train", "", "test"),
        (BANG, "pick", "", "test", "", ""),
        (UNUSED, "pick", "", "unused", "", ""),
        (CLIMB, "climb_stairs", "", "", "train", ""),
    ])  # fmt: skip
    assert "pick_test_split3.txt: 1 lines are left out: line 2" in caplog.text


def test_hmdb51_reads_the_splits_in_the_form_of_ucf101(tmp_path: Path) -> None:
    touch(tmp_path, f"hmdb51_org/pick/{ODD}.avi", f"hmdb51_org/climb_stairs/{CLIMB}.avi")
    write(tmp_path / "split/classInd.txt", "1 brush_hair\n8 climb_stairs\n28 pick\n")
    write(tmp_path / "split/trainlist01.txt", f"pick/{ODD}.avi\nclimb_stairs/{CLIMB}.avi 8\n")
    write(tmp_path / "split/testlist01.txt", f"pick/{BANG}.avi\n")
    listing = listed(tmp_path, "hmdb51")
    assert set(present(listing)) == {ODD, CLIMB} and set(missing(listing)) == {BANG}
    assert sorted(rows(listing, "videos")) == sorted([
        (ODD, "pick", "28", "train", "", ""),
        (CLIMB, "climb_stairs", "8", "train", "", ""),
        (BANG, "pick", "28", "test", "", ""),
    ])  # fmt: skip


def test_hmdb51_names_that_differ_in_case_only_are_two_videos(tmp_path: Path) -> None:
    names = ["prelinger_x_pick_f_nm_np1_fr_med_1", "Prelinger_x_pick_f_nm_np1_fr_med_1"]
    touch(tmp_path, *(f"pick/{name}.avi" for name in names))
    assert set(present(listed(tmp_path, "hmdb51"))) == set(names)
