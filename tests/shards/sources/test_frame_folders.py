"""Frame folders and arrays as sources: which folders and files are videos, and what they are called."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import Reason, UsageError
from reelkin.shards.sources.inputs import Kind, Listing
from reelkin.shards.sources.listing import list_videos


def touch(folder: Path, *names: str | bytes, size: int = 10) -> None:
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def found(listing: Listing) -> list[tuple[str, str, int]]:
    return [(entry.video_id, entry.kind.value, entry.bytes) for entry in listing.inputs if entry.reason is None]


def test_every_folder_that_holds_images_is_a_video_named_by_its_path(tmp_path: Path) -> None:
    touch(tmp_path, "one/1.jpg", "one/2.JPG", "one/n_frames", "class a/v_1.2/image_00001.png", "class b/v.avi/0.webp")
    touch(tmp_path, "empty/notes.txt", ".hidden/1.jpg", "one/.2.jpg", "flow/flow_x_00001.jpg")
    listing = list_videos([tmp_path], "frames")
    assert found(listing) == [("class a/v_1.2", "frames", 10), ("class b/v.avi", "frames", 10), ("one", "frames", 20)]
    assert [Path(entry.path) for entry in listing.inputs][2] == tmp_path / "one"
    assert listing.ignored == {"(none)": 1, ".txt": 1, ".jpg": 1}


def test_the_newest_image_dates_the_video(tmp_path: Path) -> None:
    touch(tmp_path, "v/1.jpg", "v/2.jpg", "v/readme.txt")
    for name, seconds in (("1.jpg", 2000), ("2.jpg", 1000), ("readme.txt", 3000)):
        os.utime(tmp_path / "v" / name, (seconds, seconds))
    assert list_videos([tmp_path], "frames").inputs[0].modified_ns == 2000 * 10**9


def test_a_source_that_holds_images_itself_is_a_video_and_nested_folders_are_videos_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "film/1.jpg", "film/second part/1.jpg", "film/second part/deep/1.jpg")
    expected = [("film", "frames", 10), ("second part", "frames", 10), ("second part/deep", "frames", 10)]
    assert found(list_videos([tmp_path / "film"], "frames")) == expected
    monkeypatch.chdir(tmp_path / "film")
    assert found(list_videos([Path(".")], "frames")) == expected


def test_links_to_folders_are_followed_but_never_in_a_circle(tmp_path: Path) -> None:
    touch(tmp_path, "store/v/1.jpg", "root/plain/1.jpg")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "store" / "v")
    (tmp_path / "root" / "plain" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "self").symlink_to(tmp_path / "root" / "self")
    (tmp_path / "root" / "gone").symlink_to(tmp_path / "nowhere")
    assert [video_id for video_id, _, _ in found(list_videos([tmp_path / "root"], "frames"))] == ["linked", "plain"]


def test_odd_names_of_folders_are_kept_or_rejected(tmp_path: Path) -> None:
    touch(tmp_path, "two words/1.jpg", "日本/1.jpg", b"caf\xe9/1.jpg", "new\nline/1.jpg")
    inputs = list_videos([tmp_path], "frames").inputs
    assert {entry.video_id for entry in inputs if entry.reason is None} == {"two words", "日本"}
    assert {entry.video_id for entry in inputs if entry.reason is Reason.BAD_ID} == {"caf\\xe9", "new\\x0aline"}


def test_a_link_to_a_missing_image_counts_as_an_image_without_size(tmp_path: Path) -> None:
    touch(tmp_path, "v/1.jpg")
    (tmp_path / "v" / "2.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "1.jpg").symlink_to(tmp_path / "gone.jpg")
    assert found(list_videos([tmp_path], "frames")) == [("v", "frames", 10), ("w", "frames", 0)]


def test_arrays_are_found_in_both_published_layouts(tmp_path: Path) -> None:
    touch(tmp_path, "flat.npy", "folder/data.npy", "class/deep/x.NPY", "several/a.npy", "several/b.npy", "notes.txt")
    listing = list_videos([tmp_path], "npy")
    ids = [video_id for video_id, kind, size in found(listing) if (kind, size) == ("array", 10)]
    assert ids == ["class/deep", "flat", "folder", "several/a", "several/b"]
    assert listing.ignored == {".txt": 1}
    assert found(list_videos([tmp_path / "flat.npy"], "npy")) == [("flat", "array", 10)]


def test_arrays_that_would_share_an_id_keep_their_paths(tmp_path: Path) -> None:
    touch(tmp_path, "a.npy", "a/x.npy")
    assert [entry.video_id for entry in list_videos([tmp_path], "npy").inputs] == ["a.npy", "a/x.npy"]


def test_a_link_to_a_missing_array_is_an_input_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.npy").symlink_to(tmp_path / "gone.npy")
    assert [(entry.video_id, entry.reason) for entry in list_videos([tmp_path], "npy").inputs] == [
        ("a", Reason.MISSING)
    ]


def test_a_source_of_another_kind_is_a_usage_error(tmp_path: Path) -> None:
    touch(tmp_path, "video.mp4")
    for layout in ("frames", "npy"):
        for name in ("video.mp4", "nowhere", ""):
            with pytest.raises(UsageError, match=f"the layout {layout} expects"):
                list_videos([tmp_path / name], layout)


def test_lists_of_files_may_name_frame_folders_and_arrays(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "frames/v.avi/1.jpg", "frames/v.avi/2.jpg", "frames/v.avi/n_frames", "b.NPY")
    (tmp_path / "none").mkdir()
    (tmp_path / "list.txt").write_text("a.mp4\nframes/v.avi/\nb.NPY\nnone\n")
    expected = [("a", "file", 10), ("b", "array", 10), ("frames/v", "frames", 20), ("none", "frames", 0)]
    assert found(list_videos([tmp_path / "list.txt"])) == expected
    (tmp_path / "list.csv").write_text("video_id,path\nx,frames/v.avi\ny,b.NPY\nz,a.mp4\n")
    assert found(list_videos([tmp_path / "list.csv"])) == [("x", "frames", 20), ("y", "array", 10), ("z", "file", 10)]
    assert found(list_videos([tmp_path / "b.NPY"])) == [("b", "array", 10)]


def test_ordinary_files_cost_one_look_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, *[f"{n}.mp4" for n in range(5)])
    (tmp_path / "list.txt").write_text("".join(f"{n}.mp4\n" for n in range(5)))
    looked: list[str] = []
    real = os.stat

    def counted(path: str, *args: object, **settings: object) -> os.stat_result:
        looked.append(os.fspath(path))
        return real(path, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", counted)
    inputs = list_videos([tmp_path / "list.txt"]).inputs
    assert sorted(path for path in looked if path.endswith(".mp4")) == [str(tmp_path / f"{n}.mp4") for n in range(5)]
    assert all(entry.kind is Kind.FILE for entry in inputs)


def test_what_is_found_can_be_packed(tmp_path: Path) -> None:
    from PIL import Image

    from reelkin.shards.video.arrays import pack_array
    from reelkin.shards.video.container import Limits
    from reelkin.shards.video.frames import pack_frames
    from reelkin.shards.video.probe import probe

    (tmp_path / "v").mkdir()
    Image.new("RGB", (32, 24)).save(tmp_path / "v" / "1.jpg")
    np.save(tmp_path / "v" / "a.npy", np.zeros((3, 24, 32), np.uint8))
    (frames,) = list_videos([tmp_path], "frames").inputs
    (array,) = list_videos([tmp_path], "npy").inputs
    pack_frames(Path(frames.path), tmp_path / "f.mp4", frame_rate=25, names="auto", limits=Limits())
    pack_array(Path(array.path), tmp_path / "a.mp4", frame_rate=25, limits=Limits())
    assert (probe(tmp_path / "f.mp4").num_frames, probe(tmp_path / "a.mp4").num_frames) == (1, 3)
