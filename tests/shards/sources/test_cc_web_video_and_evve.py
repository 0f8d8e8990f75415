"""CC_WEB_VIDEO with its numbered judgements, and EVVE with its events: the published text files and the pickles."""

from __future__ import annotations

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

VIDEO_LIST = (
    "1\t1\tYouTube\t1_1_Y.flv\thttp://example.org/a\r\n"
    "2\t1\tGoogle\t1_2_G.avi\t\r\n"
    "3\t1\tYouTube\t\t\r\n"
    "4\t2\tYahoo\t2_1_H.wmv\thttp://example.org/b\r\n"
    "5\t2\tYouTube\t2_2_Y.flv\r\n"
    "6\t2\tYouTube\t2_2_Y.flv\r\n"
)


def cc_web(root: Path, gt: str = "GT_{}.rst") -> None:
    touch(root, "Videos/1/1_1_Y.flv", "Videos/1/1_2_G.avi", "Videos/2/2_2_Y.flv", "Videos/2/notes.doc")
    write(root / "Video_List.txt", VIDEO_LIST)
    write(root / "Seed.txt", "1\t1\n2\t6\n")
    write(root / "GT" / gt.format(1), "1 E\n2\tS\n3 S\n4 x\n99 L\n")
    write(root / "GT" / gt.format(2), "\n5 M\n6 E\n4 V\n1 -1\n2 X\n")


@pytest.mark.parametrize("gt", ["GT_{}.rst", "GT{}.rst"])
def test_judgements_of_numbers_become_pairs_of_ids(gt: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cc_web(tmp_path, gt)
    with caplog.at_level(logging.INFO):
        listing = listed(tmp_path, "cc_web_video")
    assert present(listing) == {name.split(".")[0]: f"Videos/{name[0]}/{name}" for name in
                                ("1_1_Y.flv", "1_2_G.avi", "2_2_Y.flv")}  # fmt: skip
    assert missing(listing) == {"2_1_H": "named by Video_List.txt, but no file of the source bears this id"}
    # 3 has no name; of 5 and 6, which bear one name, the last counts, as in the pickles; 99 is in no list
    assert pairs(listing) == [("1_1_Y", "1_2_G", "S"), ("2_2_Y", "2_1_H", "V")]
    assert pairs(listing, "negatives") == [("1_1_Y", "2_1_H", "X"), ("2_2_Y", "1_2_G", "X")]
    assert "judgements of 3 numbers without a video: L 1, M 1, S 1" in caplog.text
    assert "2 rows of pairs (2 of a video with itself left out)" in caplog.text
    assert rows(listing, "videos") == [
        ("1_1_Y", "1", "1", "query"),
        ("1_2_G", "1", "2", ""),
        ("2_1_H", "2", "4", ""),
        ("2_2_Y", "2", "6", "query"),
    ]


def test_videos_may_lie_in_one_folder_and_lists_may_be_away(tmp_path: Path) -> None:
    touch(tmp_path, "1_1_Y.flv", "24_7_H.mov")
    listing = listed(tmp_path, "cc_web_video")
    assert set(present(listing)) == {"1_1_Y", "24_7_H"} and set(listing.tables) == {"videos"}


def test_numbers_without_the_list_of_names_give_no_pairs_and_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cc_web(tmp_path)
    (tmp_path / "Video_List.txt").unlink()
    assert "pairs" not in listed(tmp_path, "cc_web_video").tables
    assert "without Video_List.txt and Seed.txt they give no pairs" in caplog.text


def test_lines_that_contradict_or_are_none_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cc_web(tmp_path)
    write(tmp_path / "GT/GT_1.rst", "1 E\n2 S\n2 X\n4 Q\nhello\n")
    assert ("1_1_Y", "1_2_G", "S") in pairs(listed(tmp_path, "cc_web_video"))
    assert "3 lines are left out: line 3 ('2 X': the number was judged before); line 4 ('4 Q'); line 5" in caplog.text
    write(tmp_path / "GT/GT_1.rst", "E S V\n")
    with pytest.raises(UsageError, match="GT_1.rst is not what it should be"):
        listed(tmp_path, "cc_web_video")


def test_both_flavours_of_the_pickle_say_the_same(tmp_path: Path) -> None:
    touch(tmp_path, "Videos/1/1_1_Y.flv")
    truth = {"ground_truth": [{1: "E", 2: "S", 3: "x", 4: "S", 5: "X"}], "excluded": [{2, 9}]}
    dicts = {"index": {"1/1_1_Y": 1, "1/1_2_Y": 2, "2/2_1_Y": 5}, "queries": ["1/1_1_Y"], **truth}
    names = ["", "1_1_Y", "1_2_Y", "", "2_1_Y", "2_1_Y"]
    lists = {"index": names, "vid2index": {"1_1_Y": 1, "1_2_Y": 2, "2_1_Y": 5}, "queries": ["1_1_Y"], **truth}
    one = listed(tmp_path, "cc_web_video", annotations=(write_pickle(tmp_path / "cc_web_a.pickle", dicts),))
    two = listed(tmp_path, "cc_web_video", annotations=(write_pickle(tmp_path / "cc_web_b.pickle", lists),))
    assert pairs(one) == [("1_1_Y", "1_2_Y", "S")] and pairs(one, "negatives") == [("1_1_Y", "2_1_Y", "X")]
    assert pairs(one, "excluded") == [("1_1_Y", "1_2_Y", "S")]
    assert set(missing(one)) == {"1_2_Y", "2_1_Y"}
    assert one.tables == two.tables


@pytest.mark.parametrize("name", ["cc_web_video.pickle", "cc_web_video_tca.pickle"])
def test_the_published_pickles_give_the_measured_figures(name: str, tmp_path: Path) -> None:
    annotation = published(name)
    place_real_videos(tmp_path, ["Videos/1/1_1_Y.flv", "Videos/24/24_2_Y.flv"])
    listing = listed(tmp_path, "cc_web_video", annotations=(annotation,))
    assert len(listing.inputs) == 13_115 and len(present(listing)) == 2
    # 3,789 positives, less the 24 queries themselves and one S whose number has no video
    counts = Counter(label for _, _, label in pairs(listing))
    assert counts == {"E": 748 - 24, "S": 2651 - 1, "M": 308, "V": 42, "L": 40} and counts.total() == 3789 - 25
    assert len(pairs(listing, "negatives")) == 9086 + 1 - 9  # one x in lower case; nine numbers have no video
    per_set = Counter(query for query, _, _ in pairs(listing))
    assert [per_set["1_1_Y"], per_set["15_2_Y"], per_set["16_5_Y"]] == [341 - 1, 713 - 1, 20 - 1]
    excluded = pairs(listing, "excluded")
    assert sum(label in "ESVML" for _, _, label in excluded if label) == 21


Q1, Q2, P, N, U = "-query-one-", "_query_two_", "positive_01", "negative-01", "unclear--01"


def test_events_join_every_query_with_every_positive(tmp_path: Path) -> None:
    touch(tmp_path, f"videos/fire/{Q1}.mp4", f"videos/{P}.flv", "videos/bystander.mp4")
    write(tmp_path / "annots/fire+2012.dat", f"{Q1} 1 query\r\n{Q2} 1 query\r\n{P} 1 database\r\n{N} -1 database\r\n")
    write(tmp_path / "annots/flood.dat", f"{U} 0 database\n\n{N}   1   database\n")
    write(tmp_path / "annots/README", "...")
    listing = listed(tmp_path, "evve")
    assert set(present(listing)) == {Q1, P}  # a name of 9 letters is no id of YouTube
    assert missing(listing)[Q2] == "named by fire+2012.dat, but no file of the source bears this id"
    assert set(missing(listing)) == {Q2, N, U}
    assert pairs(listing) == [(Q1, P, "fire+2012"), (Q2, P, "fire+2012")]
    assert pairs(listing, "negatives") == [(Q1, N, "fire+2012"), (Q2, N, "fire+2012")]
    assert rows(listing, "videos") == [
        (Q1, "fire+2012", "query", "1"),
        (Q2, "fire+2012", "query", "1"),
        (N, "fire+2012", "database", "-1"),
        (P, "fire+2012", "database", "1"),
        (U, "flood", "database", "0"),
    ]


def test_an_event_file_of_something_else_is_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path, f"{Q1}.mp4")
    write(tmp_path / "annots/fire.dat", b"\x00\x01\xff\xfe" * 50)
    with pytest.raises(UsageError, match="fire.dat is not what it should be, lines of the form <YouTube id>"):
        listed(tmp_path, "evve")


@pytest.mark.parametrize("content", [{"annotation": {"fire": 3}, "queries": [], "database": []}, {"queries": []}, [1]])
def test_an_evve_pickle_of_something_else_is_a_usage_error(content: object, tmp_path: Path) -> None:
    touch(tmp_path, f"{Q1}.mp4")
    write_pickle(tmp_path / "evve.pickle", content)
    with pytest.raises(UsageError, match="annotations: .*evve.pickle"):
        listed(tmp_path, "evve")


def test_the_published_evve_gives_the_measured_figures(tmp_path: Path) -> None:
    annotation = published("evve.pickle")
    place_real_videos(tmp_path, ["1IHwLTip1nI.mp4", "s__MC6Clfxs.webm"])
    listing = listed(tmp_path, "evve", annotations=(annotation,))
    assert len(listing.inputs) == 620 + 2373 and len(present(listing)) == 2
    assert Counter(row[2] for row in rows(listing, "videos")) == {"query": 620, "database": 2373}
    assert sum(row[3] == "1" and row[2] == "database" for row in rows(listing, "videos")) == 1252
    counts = Counter(label for _, _, label in pairs(listing))
    assert len(counts) == 13 and counts["strokkur+geyser"] == 215 * 431 and counts["marrakech+bomb+attack"] == 4 * 10
    assert "negatives" not in listing.tables
