"""The demo's split: by what videos show, of usable videos only."""

from __future__ import annotations

from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.launch.demo import DemoConfig
from reelkin.launch.split import group_videos, groups_csv_in, readable, split_by_group
from reelkin.shards.sources.listing import list_videos
from reelkin.tests.helpers.videos import make_video

IDS = ["a", "b", "beach", "c.mp4", "c.webm"]


def test_videos_of_one_group_stay_in_one_half_and_nothing_is_lost() -> None:
    groups = {f"v{number}": f"g{number // 3}" for number in range(30)}
    split = split_by_group(groups, seed=0)
    halves = [{groups[video_id] for video_id in half} for half in (split.training, split.held_out)]
    assert not halves[0] & halves[1]
    assert len(halves[0]) == len(halves[1]) == 5
    assert sorted([*split.training, *split.held_out]) == sorted(groups)
    assert split.has_related
    assert split_by_group(groups, seed=0) == split
    assert split_by_group(groups, seed=1).held_out != split.held_out


def test_too_few_different_things_are_refused_with_their_number() -> None:
    with pytest.raises(ReelkinError, match="show 3 different things; at least 4"):
        split_by_group({"a": "1", "b": "2", "c": "3", "d": "3"}, seed=0)


def test_a_csv_names_files_with_and_without_extension(tmp_path: Path) -> None:
    csv = tmp_path / "groups.csv"
    csv.write_text("file,group,note\na.mp4,beach,x\nb.mp4,beach,x\nc.mp4,sea,\nc.webm,sea,\ngone.mp4,beach,\n")
    groups = group_videos(IDS, csv)
    assert groups["a"] == groups["b"] == "beach"
    assert groups["c.mp4"] == groups["c.webm"] == "sea"
    assert groups["beach"] != "beach", "a video does not join a group because it bears its name"


def test_a_video_in_two_groups_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("video_id,group\na,x\na,y\n")
    with pytest.raises(ReelkinError, match="'a'"):
        group_videos(IDS, tmp_path / "groups.csv")


def test_a_csv_of_other_videos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "groups.csv").write_text("video_id,group\nx,1\ny,1\n")
    with pytest.raises(ReelkinError, match="names none of the videos"):
        group_videos(IDS, tmp_path / "groups.csv")


def test_without_a_csv_each_video_stands_alone() -> None:
    groups = group_videos(IDS, None)
    assert len(set(groups.values())) == len(IDS)
    assert not split_by_group(groups, seed=0).has_related


def test_a_groups_csv_is_recognised_by_its_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("name,size\nx,1\n")
    (tmp_path / "b.csv").write_bytes("file, group\nsch\xf6n.mp4,x\n".encode("latin-1"))
    assert groups_csv_in(tmp_path) == tmp_path / "b.csv"
    (tmp_path / "b.csv").unlink()
    assert groups_csv_in(tmp_path) is None


def test_files_that_hold_no_video_are_not_split(tmp_path: Path) -> None:
    make_video(tmp_path / "good.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").write_bytes(b"")
    listed = list_videos([tmp_path]).inputs
    assert [entry.video_id for entry in listed] == ["empty", "good", "text"]
    assert [entry.video_id for entry in readable(listed)] == ["good"]


def test_an_output_inside_the_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="lies inside --videos"):
        DemoConfig(videos=tmp_path, output=tmp_path / "demo-run")
