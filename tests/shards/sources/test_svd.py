"""SVD: ids with their ".mp4", lists without extension, judged pairs."""

from __future__ import annotations

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
)


def test_ids_are_written_as_in_the_published_lists(tmp_path: Path) -> None:
    touch(tmp_path, "videos/101.mp4", "videos/102.webm", "videos/cover.mp4")
    write(tmp_path / "metadata/all-video-id", "101.mp4\n102\n103.mp4\n")
    listing = listed(tmp_path, "svd")
    assert present(listing) == {"101.mp4": "videos/101.mp4", "102.mp4": "videos/102.webm"}
    assert missing(listing) == {"103.mp4": "named by all-video-id, but no file of the source bears this id"}


def test_roles_splits_and_judged_pairs_come_from_the_lists(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    touch(tmp_path, "videos/1.mp4", "videos/2.mp4", "videos/9.mp4")
    write(tmp_path / "metadata/test_groundtruth", "1.mp4 2.mp4 1\r\n1.mp4 3.mp4 0\r\n1.mp4 4.mp4 7\r\n")
    write(tmp_path / "metadata/train_groundtruth.txt", "5.mp4 6.mp4 1\n5.mp4 5.mp4 1\n")
    write(tmp_path / "metadata/query-id", "1.mp4\n5.mp4\n8.mp4\n")
    write(tmp_path / "metadata/unlabeled-data-id", "7.mp4\n")
    write(tmp_path / "metadata/probable-negative-unlabeled-data-id", "7.mp4\n10.mp4\n")
    listing = listed(tmp_path, "svd")
    assert pairs(listing) == [("1.mp4", "2.mp4", "1"), ("5.mp4", "6.mp4", "1")]
    assert pairs(listing, "negatives") == [("1.mp4", "3.mp4", "0")]
    assert "1 lines are left out: line 3 ('1.mp4 4.mp4 7')" in caplog.text
    assert {row[0]: row[1:] for row in rows(listing, "videos")} == {
        "1.mp4": ("query", "test"),
        "2.mp4": ("labeled", "test"),
        "3.mp4": ("labeled", "test"),
        "5.mp4": ("query", "train"),
        "6.mp4": ("labeled", "train"),
        "7.mp4": ("unlabeled", ""),
        "8.mp4": ("query", ""),
        "9.mp4": ("", ""),  # on the disk, in no list
        "10.mp4": ("probable-negative", ""),
    }
    assert set(missing(listing)) == {f"{n}.mp4" for n in (3, 5, 6, 7, 8, 10)}


def test_a_list_of_another_name_is_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path, "1.mp4")
    path = write(tmp_path / "elsewhere/names.txt", "1.mp4\n")
    with pytest.raises(UsageError, match="names.txt is none of query-id, labeled-data-id"):
        listed(tmp_path, "svd", annotations=(path,))


def test_the_published_ground_truth_gives_the_measured_figures(tmp_path: Path) -> None:
    annotation = published("svd_test_groundtruth.txt")
    place_real_videos(tmp_path, ["videos/6520763290014977287.mp4"])
    listing = listed(tmp_path, "svd", annotations=(annotation,))
    assert len(pairs(listing)) == 1759 and len(pairs(listing, "negatives")) == 6355 - 1759
    assert len({row[0] for row in rows(listing, "videos") if row[1:] == ("query", "test")}) == 206
    assert len(listing.inputs) == 206 + 5951 and list(present(listing)) == ["6520763290014977287.mp4"]
