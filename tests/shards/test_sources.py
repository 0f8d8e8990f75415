"""Inputs: which files of a folder or list count, how they are named, and that odd names never break anything."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reelkin.core.errors import Reason, UsageError
from reelkin.shards.sources.inputs import printable
from reelkin.shards.sources.listing import list_videos


def touch(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def ids(*sources: Path) -> list[str]:
    return [entry.video_id for entry in list_videos(sources).inputs]


def test_a_folder_gives_its_videos_by_extension_sorted_without_hidden_files(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp4", "a/deep.MKV", "a/z.gif", ".hidden.mp4", ".cache/x.mp4", "notes.txt", "Cover.JPG", "README")
    listing = list_videos([tmp_path])
    assert [(i.video_id, i.name, i.bytes) for i in listing.inputs] == [
        ("a/deep", "a/deep.MKV", 1),
        ("a/z", "a/z.gif", 1),
        ("b", "b.mp4", 1),
    ]
    assert listing.ignored_in_words() == "3 files that are not videos: (none) 1, .jpg 1, .txt 1"


def test_files_that_would_share_an_id_keep_their_extensions(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.webm", "a.mp4.mkv", "b.mp4", "Track 2.0")
    assert ids(tmp_path, tmp_path / "Track 2.0") == ["Track 2.0", "a.mp4", "a.mp4.mkv", "a.webm", "b"]


def test_a_second_file_of_the_same_id_is_rejected_and_the_first_given_kept(tmp_path: Path) -> None:
    touch(tmp_path, "one/a.mp4", "two/a.mp4")
    inputs = list_videos([tmp_path / "two", tmp_path / "one"]).inputs
    assert [(i.video_id, Path(i.path).parent.name, i.reason) for i in inputs] == [
        ("a", "two", None),
        ("a", "one", Reason.DUPLICATE_ID),
    ]


def test_the_same_file_given_twice_counts_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    assert ids(tmp_path, tmp_path / "a.mp4", tmp_path) == ["a"]
    assert ids(*[tmp_path / "a.mp4"] * 2) == ["a"]


def test_order_does_not_depend_on_the_order_of_sources(tmp_path: Path) -> None:
    touch(tmp_path, "x/c.mp4", "x/a.mp4", "y/b.mp4")
    assert ids(tmp_path / "x", tmp_path / "y") == ids(tmp_path / "y", tmp_path / "x") == ["a", "b", "c"]


def test_a_text_list_is_relative_to_its_folder_and_missing_files_become_rejects(tmp_path: Path) -> None:
    touch(tmp_path, "sub/a.mp4", "b.bin")
    (tmp_path / "list.txt").write_text(f"sub/a.mp4\r\n\nb.bin\ngone.mp4\n{tmp_path}/sub/a.mp4\n", newline="")
    inputs = list_videos([tmp_path / "list.txt"]).inputs
    assert [(i.video_id, i.reason) for i in inputs] == [("b.bin", None), ("gone", Reason.MISSING), ("sub/a", None)]


def test_a_csv_list_gives_the_ids(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b, c.mp4")
    text = '\ufeffvideo_id,note,path\nfirst,x,a.mp4\n"second, quoted",,"b, c.mp4"\n'
    text += 'first,y,"b, c.mp4"\n,,a.mp4\nnowhere,,\n'
    (tmp_path / "list.csv").write_text(text)
    inputs = list_videos([tmp_path / "list.csv"]).inputs
    assert [(i.video_id, i.name, i.reason) for i in inputs] == [
        ("", "a.mp4", Reason.BAD_ID),
        ("first", "a.mp4", None),
        ("first", "b, c.mp4", Reason.DUPLICATE_ID),
        ("nowhere", "", Reason.MISSING),
        ("second, quoted", "b, c.mp4", None),
    ]


def test_a_csv_without_its_columns_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,file\na,b\n")
    with pytest.raises(UsageError, match="video_id and path; found id, file"):
        list_videos([tmp_path / "list.csv"])
    with pytest.raises(UsageError, match="does not exist"):
        list_videos([tmp_path / "nowhere"])


def test_odd_names_work_or_are_rejected_but_never_crash(tmp_path: Path) -> None:
    good = [
        "two words.mp4",
        'it\'s "quoted".mp4',
        "日本語.mp4",
        "émile.mp4",
        "-dash.mp4",
        "a'; drop.mp4",
        "%s{}.mp4",
        "l" * 250 + ".mp4",
    ]
    bad: list[str | bytes] = ["new\nline.mp4", "bell\a.mp4", b"caf\xe9.mp4", "tab\t.mp4"]
    deep = "/".join(["d" * 100] * 4) + "/deep.mp4"
    touch(tmp_path, *good, deep, *bad)
    inputs = list_videos([tmp_path]).inputs
    assert {i.name for i in inputs if i.reason is None} == {*good, deep}
    rejected = {i.video_id for i in inputs if i.reason is Reason.BAD_ID}
    assert rejected == {"new\\x0aline", "bell\\x07", "caf\\xe9", "tab\\x09"}
    for entry in inputs:
        entry.video_id.encode("utf-8")
        entry.name.encode("utf-8")
        assert entry.name.isprintable()


def test_ids_that_a_list_would_strip_are_rejected(tmp_path: Path) -> None:
    # ids travel in files with one a line and in tables, whose readers drop spaces at the ends
    touch(tmp_path, " first.mp4", "last .mp4", "wide\u3000.mp4", "in the middle.mp4", "folder/ inner.mp4")
    inputs = list_videos([tmp_path]).inputs
    assert {i.video_id for i in inputs if i.reason is None} == {"in the middle", "folder/ inner"}
    rejects = [i for i in inputs if i.reason is Reason.BAD_ID]
    assert len(rejects) == 3 and all("rename the file, or give an id" in i.detail for i in rejects)
    (tmp_path / "list.csv").write_text("video_id,path\nfirst, first.mp4\nlast ,last .mp4\n")
    assert [(i.video_id, i.reason) for i in list_videos([tmp_path / "list.csv"]).inputs] == [
        ("first", None),
        ("last ", Reason.BAD_ID),
    ]


def test_an_undecodable_name_can_be_given_an_id_by_a_list(tmp_path: Path) -> None:
    touch(tmp_path, b"caf\xe9.mp4")
    (tmp_path / "list.csv").write_bytes(b"video_id,path\ncafe,caf\xe9.mp4\n")
    (entry,) = list_videos([tmp_path / "list.csv"]).inputs
    assert (entry.video_id, entry.name, entry.reason, entry.bytes) == ("cafe", "caf\\xe9.mp4", None, 1)


def test_broken_links_and_endless_links_are_rejects(tmp_path: Path) -> None:
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "round").symlink_to(tmp_path)
    assert [(i.video_id, i.reason) for i in list_videos([tmp_path]).inputs] == [
        ("gone", Reason.MISSING),
        ("loop", Reason.UNREADABLE),
    ]


def test_printable_escapes_what_cannot_be_shown_and_nothing_else() -> None:
    assert printable("naïve 日本 'x' \\") == "naïve 日本 'x' \\"
    assert printable("a\x00b\x85\u2028\udcff") == "a\\x00b\\x85\\u2028\\xff"
