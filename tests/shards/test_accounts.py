"""Every input is one row and every video in one place, whatever was done to a folder, stopped, lost or given again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reelkin.core.errors import DataError, Reason, ReelkinError, UsageError
from reelkin.core.files import publish_json, read_json
from reelkin.shards import build as build_command
from reelkin.shards import remove as remove_command
from reelkin.shards.packing import building, removal, shard_work
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.packing.plan import Plan
from reelkin.shards.packing.removal import remove
from reelkin.shards.packing.shard_work import ShardBuilder
from reelkin.shards.reader import ShardSet
from reelkin.shards.sources.inputs import VideoInput
from reelkin.tests.helpers import videos


class Killed(BaseException):
    pass


def killed(*_: object) -> None:
    raise Killed


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Two good videos and a cut one."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(made / "one.mp4", folder / "a.mp4")
    shutil.copy(made / "picture.gif", folder / "b.gif")
    videos.make_truncated(folder / "cut.mp4", made / "noise.mp4")
    return folder


def rows(out: Path) -> list[tuple[str, str]]:
    """Id and reason of each row; the folder is whole, and each usable video has its clips once."""
    shards = ShardSet.open(out)
    shards.verify()
    clips = Counter(clip.video_id for name in shards.shard_names for clip in shards.clips_of(name))
    assert clips == {row.video_id: row.num_clips for row in shards.videos if row.status == "ok"}
    return [(row.video_id, row.reason) for row in shards.videos]


def test_what_was_taken_up_again_and_then_taken_out_is_one_row(folder: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", folder / "cut.mp4")
    build(BuildConfig((folder,), out, retry=("truncated",)))
    remove(out, ["cut"])
    assert rows(out) == [("a", ""), ("b", ""), ("cut", "removed")]


def test_a_retry_of_an_id_that_was_given_twice_leaves_a_row_for_each(folder: Path, made: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    shutil.copy(made / "noise.mp4", other / "cut.mp4")
    build(BuildConfig((folder, other), out))
    assert rows(out)[2:] == [("cut", "truncated"), ("cut", "duplicate-id")]
    shutil.copy(made / "noise.mp4", folder / "cut.mp4")
    build(BuildConfig((folder, other), out, retry=("truncated",), limit=1))
    assert rows(out) == [("a", ""), ("b", ""), ("cut", ""), ("cut", "duplicate-id")]


def test_a_duplicate_that_is_given_later_gets_a_row_once(folder: Path, made: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", other / "a.mp4")
    for _ in range(2):
        build(BuildConfig((folder, other), out, add=True))
        assert rows(out) == [("a", ""), ("a", "duplicate-id"), ("b", ""), ("cut", "truncated")]


@pytest.mark.parametrize("more", [{"retry": ("truncated",)}, {"add": True}], ids=["retry", "add"])
def test_a_round_that_was_stopped_before_its_tables_is_not_done_twice(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, object]
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", folder / ("new.mp4" if "add" in more else "cut.mp4"))
    again = BuildConfig((folder,), out, **more)  # type: ignore[arg-type]
    with monkeypatch.context() as patch:
        patch.setattr(building, "merge", killed)
        with pytest.raises(Killed):
            build(again)
    build(again)
    expected = {"a": "", "b": "", "cut": "truncated", "new": ""} if "add" in more else {"a": "", "b": "", "cut": ""}
    assert rows(out) == sorted(expected.items())


def test_a_retry_that_was_stopped_in_a_folder_with_a_lost_shard_goes_on(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", folder / "new.mp4")
    build(BuildConfig((folder,), out, add=True))
    (out / "clips-000001.tar").unlink()
    shutil.copy(made / "noise.mp4", folder / "cut.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(building, "_build_share", killed)
        with pytest.raises(Killed):
            build(BuildConfig((folder,), out, retry=("truncated",)))
    build(BuildConfig((folder,), out, retry=("truncated",)))
    assert rows(out) == [("a", ""), ("b", ""), ("cut", ""), ("new", "unreadable")]


def test_a_stopped_addition_whose_files_are_gone_does_not_block_the_folder(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", folder / "new.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(building, "_build_share", killed)
        with pytest.raises(Killed):
            build(BuildConfig((folder,), out, add=True))
    (folder / "new.mp4").unlink()
    build(BuildConfig((folder,), out, add=True))
    build(BuildConfig((folder,), out))
    assert rows(out) == [("a", ""), ("b", ""), ("cut", "truncated")]


def test_a_lost_shard_that_is_built_again_leaves_out_what_a_retry_has_packed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, known = tmp_path / "out", ShardBuilder._known
    with monkeypatch.context() as patch:
        slow = DataError(Reason.TIMEOUT, "a slow disk")
        patch.setattr(ShardBuilder, "_known", lambda self, entry: slow if entry.video_id == "b" else known(self, entry))
        build(BuildConfig((folder,), out))
    build(BuildConfig((folder,), out, retry=("timeout",)))
    (out / "clips-000000.tar").unlink()
    build(BuildConfig((folder,), out))
    assert rows(out) == [("a", ""), ("b", ""), ("cut", "truncated")]


def test_bringing_back_that_was_stopped_and_given_up_keeps_the_video_out(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    remove(out, ["a"])
    with monkeypatch.context() as patch:
        patch.setattr(building, "_build_share", killed)
        with pytest.raises(Killed):
            build(BuildConfig((folder,), out, retry=("removed",)))
    shutil.copy(made / "noise.mp4", folder / "new.mp4")
    build(BuildConfig((folder,), out, add=True))  # takes the place of what was stopped
    (folder / "new.mp4").unlink()
    (out / "clips-000000.tar").unlink()
    build(BuildConfig((folder,), out))
    assert rows(out) == [("a", "removed"), ("b", ""), ("cut", "truncated"), ("new", "")]
    assert read_json(out / "removed.json")["video_ids"] == ["a"]


def test_an_addition_finishes_a_removal_that_was_stopped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    with monkeypatch.context() as patch:
        patch.setattr(removal, "_take_out", killed)
        with pytest.raises(Killed):
            remove(out, ["a"])
    build(BuildConfig((folder,), out, add=True))
    assert rows(out) == [("a", "removed"), ("b", ""), ("cut", "truncated")]


def test_a_file_that_vanishes_after_it_was_cut_costs_itself_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos.make_video(folder / "long.mp4", seconds=9, fps=10, options={"g": "10", "sc_threshold": "0"})
    shutil.copy(folder / "long.mp4", folder / "longer.mp4")
    hash_of = shard_work._hash_of

    def vanish(entry: VideoInput) -> str:
        if entry.video_id == "long":
            (folder / "long.mp4").unlink()
        return hash_of(entry)

    monkeypatch.setattr(shard_work, "_hash_of", vanish)
    build(BuildConfig((folder,), tmp_path / "out", clip_seconds=3))
    assert rows(tmp_path / "out")[2:] == [("cut", "truncated"), ("long", "unreadable"), ("longer", "")]


def test_a_time_of_change_beyond_64_bits_is_no_reason_to_fail(folder: Path, tmp_path: Path) -> None:
    os.utime(folder / "a.mp4", ns=(1 << 63, 1 << 63))  # in the year 2262
    if os.stat(folder / "a.mp4").st_mtime_ns < 1 << 63:
        pytest.skip("the file system keeps no such time")
    build(BuildConfig((folder,), tmp_path / "out"))
    assert rows(tmp_path / "out")[0] == ("a", "")


def test_a_list_of_ids_with_an_undecodable_name_can_be_used(made: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(made / "one.mp4", tmp_path / "in" / "AAAAAAAAAAA.mp4")
    ids = Path(os.fsdecode(os.fsencode(tmp_path) + b"/ids\xff.txt"))
    ids.write_text("AAAAAAAAAAA\nBBBBBBBBBBB\n")
    build(BuildConfig((tmp_path / "in",), tmp_path / "out", layout="kinetics", ids=ids))
    assert rows(tmp_path / "out") == [("AAAAAAAAAAA", ""), ("BBBBBBBBBBB", "missing")]
    assert r"ids\xff.txt" in ShardSet.open(tmp_path / "out").rejects[0].detail


def test_an_output_that_is_no_folder_or_holds_shards_of_others_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ReelkinError, match="file"):
        build(BuildConfig((folder,), tmp_path / "file"))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "clips-000777.tar").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="--rebuild"):
        build(BuildConfig((folder,), tmp_path / "out"))
    assert (tmp_path / "out" / "clips-000777.tar").read_bytes() == b"somebody's"


def test_a_second_command_in_a_folder_at_work_is_refused_and_harms_nothing(
    folder: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, run_in_threads = tmp_path / "out", building.run_in_threads
    build(BuildConfig((folder,), out))
    shutil.copy(made / "noise.mp4", folder / "new.mp4")
    seen: list[subprocess.CompletedProcess[str]] = []

    def and_another(*arguments: object) -> None:
        shutil.copy(made / "noise.mp4", folder / "before.mp4")
        add = [build_command.__file__, "--videos", folder, "--output", out, "--add", "--shard-videos", "1"]
        for line in (add, [remove_command.__file__, out, "--video-ids", "a"]):
            arguments_ = [sys.executable, *map(str, line)]
            seen.append(subprocess.run(arguments_, capture_output=True, text=True, timeout=120))
        run_in_threads(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "run_in_threads", and_another)
    build(BuildConfig((folder,), out, add=True, shard_videos=1))
    assert rows(out) == [("a", ""), ("b", ""), ("cut", "truncated"), ("new", "")]
    assert [done.returncode for done in seen] == [1, 1]
    assert all("another command is at work in" in done.stderr for done in seen)


def test_a_file_whose_id_changes_as_another_comes_or_goes_is_not_packed_again(
    folder: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "vp9.webm", folder / "a.webm")  # now they are a.mp4 and a.webm
    build(BuildConfig((folder,), out, add=True))
    expected = [("a", ""), ("a.webm", ""), ("b", ""), ("cut", "truncated")]
    assert rows(out) == expected
    (folder / "a.mp4").unlink()  # now it is a, which is somebody's
    build(BuildConfig((folder,), out, add=True))
    assert rows(out) == expected
    shutil.copy(made / "noise.mp4", folder / "b.mp4")
    shutil.copy(made / "noise.mp4", folder / "b.gif")  # another video under a name that is known, but a new id
    build(BuildConfig((folder,), out, add=True))
    assert rows(out) == [*expected[:3], ("b.gif", ""), ("b.mp4", ""), expected[3]]


def test_a_rebuild_leaves_no_annotations_of_another_data_set(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    (out / "annotations").mkdir()
    (out / "annotations" / "pairs.csv").write_text("query,video\n")
    build(BuildConfig((folder,), out, clip_seconds=5, rebuild=True))
    assert not (out / "annotations" / "pairs.csv").exists()


def test_a_rank_that_sees_the_inputs_of_another_plan_builds_nothing_from_them() -> None:
    def plan(*names: str) -> Plan:
        inputs = [VideoInput(name, f"/in/{name}", name, 10, 1) for name in names]
        return Plan.make(inputs, BuildConfig((Path("x"),), Path("y")).effective())

    now, before = plan("a", "b"), plan("a", "c")
    assert len(Plan.from_plain(now.inputs, now.to_plain()).group(0).inputs) == 2
    with pytest.raises(ReelkinError, match="shard 0 are not those of the plan.*run the same command again"):
        Plan.from_plain(before.inputs, now.to_plain()).group(0)


def test_frames_and_arrays_that_change_while_they_are_packed_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, run_in_threads = tmp_path / "in", building.run_in_threads
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    for name in ("still", "moving"):
        (source / name).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(frames[0]).save(source / name / f"{number}.jpg")
        np.save(source / f"{name}.npy", frames)
    (tmp_path / "in" / "list.txt").write_text("still\nmoving\nstill.npy\nmoving.npy\n")

    def change_first(*arguments: object) -> None:
        os.utime(source / "moving" / "1.jpg", (2e9, 2e9))
        os.utime(source / "moving.npy", (2e9, 2e9))
        run_in_threads(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "run_in_threads", change_first)
    build(BuildConfig((source / "list.txt",), tmp_path / "out"))
    assert [reason for _, reason in rows(tmp_path / "out")] == ["unreadable", "unreadable", "", ""]


def test_annotations_are_published_with_the_tables_and_stay_under_their_hash(tmp_path: Path, made: Path) -> None:
    source, out = tmp_path / "vcdb", tmp_path / "out"
    (source / "core_dataset" / "topic").mkdir(parents=True)
    (source / "annotation").mkdir()
    names = ("a" * 40, "b" * 40)
    for name in names:
        shutil.copy(made / "one.mp4", source / "core_dataset" / "topic" / f"{name}.mp4")
    line = f"{names[0]}.mp4,{names[1]}.mp4,00:00:00,00:00:01,00:00:00,00:00:01\n"
    (source / "annotation" / "topic.txt").write_text(line)
    build(BuildConfig((source,), out, layout="vcdb"))
    pairs = (out / "annotations" / "pairs.csv").read_bytes()
    assert names[0].encode() in pairs
    build(BuildConfig((source / "core_dataset",), out, retry=("all",)))  # there is nothing to retry
    assert (out / "annotations" / "pairs.csv").read_bytes() == pairs
    ShardSet.open(out).verify()
    (out / "annotations" / "pairs.csv").write_bytes(pairs.replace(b"a", b"c", 1))
    build(BuildConfig((source / "core_dataset",), out, retry=("all",)))
    with pytest.raises(ReelkinError, match="pairs.csv"):  # damage is not taken for good by the next command
        ShardSet.open(out).verify()


def test_a_first_build_that_was_stopped_goes_on_with_what_has_come_since(tmp_path: Path, made: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("a", "b"):
        shutil.copy(made / "one.mp4", source / f"{name}.mp4")
    build(BuildConfig((source,), out, shard_videos=1))
    state = read_json(out / "plan.json")
    state["rounds"][0]["complete"] = False  # as a stop before the tables leaves it
    publish_json(out / "plan.json", state)
    (out / "shards.json").unlink()
    (out / "clips-000001.tar").unlink()
    kept = (out / "clips-000000.tar").stat().st_ino
    shutil.copy(made / "one.mp4", source / "c.mp4")
    with pytest.raises(UsageError, match="2 inputs instead of 3"):
        build(BuildConfig((source,), out, shard_videos=1))
    with pytest.raises(UsageError, match="other settings"):
        build(BuildConfig((source,), out, shard_videos=2, add=True))
    build(BuildConfig((source,), out, shard_videos=1, add=True))
    assert [row.video_id for row in ShardSet.open(out).videos] == ["a", "b", "c"]
    assert (out / "clips-000000.tar").stat().st_ino == kept


def test_a_lost_account_of_a_shard_is_said_with_what_to_do(tmp_path: Path, made: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    shutil.copy(made / "one.mp4", source / "a.mp4")
    build(BuildConfig((source,), out))
    shutil.copy(made / "one.mp4", source / "b.mp4")
    build(BuildConfig((source,), out, add=True))
    (out / "records" / "000001.json").unlink()
    with pytest.raises(ReelkinError, match="000001.json, the account of a shard, is gone; restore it"):
        remove(out, ["b"])
