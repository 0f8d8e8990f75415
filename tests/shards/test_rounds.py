"""After the first build: rejects taken up again, videos added, videos taken out, shards lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import read_json
from reelkin.shards import remove as command
from reelkin.shards.packing import removal
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.packing.removal import find, remove
from reelkin.shards.reader import ShardSet
from reelkin.tests.helpers import videos

NAMES = ("front.mp4", "h264.mkv", "vp9.webm", "picture.gif", "one.mp4")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Five good videos, one cut file, one text."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in NAMES:
        shutil.copy(made / name, folder / name)
    videos.make_truncated(folder / "cut.mp4", made / "noise.mp4")
    videos.make_text(folder / "text.mp4")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def tars(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".tar")}


def state(folder: Path) -> dict[str, str]:
    """Reason by id, "" for what can be read; every clip is read."""
    shards = ShardSet.open(folder)
    shards.verify()
    for row in shards.videos:
        if row.status == "ok":
            assert len(shards.read_clip(row.video_id)) == row.num_clips
    return {row.video_id: row.reason for row in shards.videos}


GOOD = dict.fromkeys(("front", "h264", "one", "picture", "vp9"), "")


def test_a_retry_packs_what_is_usable_now_into_new_shards(folder: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out, shard_videos=3))
    assert state(out) == GOOD | {"cut": "truncated", "text": "not-a-video"}
    before = tars(out)
    shutil.copy(made / "noise.mp4", folder / "cut.mp4")  # fetched again
    outcome = build(BuildConfig((folder,), out, shard_videos=3, retry=("truncated",)))
    assert state(out) == GOOD | {"cut": "", "text": "not-a-video"}
    assert tars(out) == before | {"clips-000003.tar": (out / "clips-000003.tar").read_bytes()}
    assert ShardSet.open(out).read_clip("cut")[0].data == (made / "noise.mp4").read_bytes()
    assert (outcome.num_videos, outcome.num_rejected, outcome.reasons) == (7, 1, {"not-a-video": 1})
    ids = [row.video_id for row in ShardSet.open(out).videos]
    assert ids == sorted(ids)


def test_a_retry_that_fails_again_tells_the_new_reason_and_adds_no_shard(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    before = tars(out)
    (folder / "cut.mp4").write_bytes(b"")
    build(BuildConfig((folder,), out, retry=("all",)))
    assert state(out) == GOOD | {"cut": "empty-file", "text": "not-a-video"} and tars(out) == before
    assert build(BuildConfig((folder,), out, retry=("timeout",))).num_rejected == 2  # nothing to do is no error


def test_a_retry_needs_a_finished_build_and_a_reason_that_exists(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no finished shards"):
        build(BuildConfig((folder,), tmp_path / "out", retry=("truncated",)))
    with pytest.raises(UsageError, match="'broken' is no reason; give all, or some of .*truncated"):
        BuildConfig((folder,), tmp_path / "out", retry=("broken",))
    with pytest.raises(UsageError, match="either --retry or --add"):
        BuildConfig((folder,), tmp_path / "out", retry=("all",), add=True)


def test_new_videos_are_added_and_old_shards_stay_as_they_are(folder: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out, add=True))  # in a new folder everything is new
    before = tars(out)
    shutil.copy(made / "vp8.webm", folder / "another.webm")
    with pytest.raises(UsageError, match="7 inputs instead of 8.*--add"):
        build(BuildConfig((folder,), out))
    build(BuildConfig((folder,), out, add=True))
    assert state(out)["another"] == "" and len(state(out)) == 8
    assert tars(out).items() > before.items()
    again = contents(out)
    build(BuildConfig((folder,), out, add=True))
    assert contents(out) == again


def test_a_removal_leaves_what_a_build_without_the_videos_writes(folder: Path, tmp_path: Path) -> None:
    out, anew = tmp_path / "out", tmp_path / "anew"
    build(BuildConfig((folder,), out, shard_videos=4))
    secret = (folder / "vp9.webm").read_bytes()
    other = ShardSet.open(out).read_clip("one")[0]
    result = remove(out, ["vp9", "text", "nobody"])
    assert (result.removed, result.unknown, result.shards) == (["vp9"], ["nobody"], ["clips-000001.tar"])
    assert state(out) == GOOD | {"cut": "truncated", "text": "removed", "vp9": "removed"}
    assert not any(secret[100:400] in data for data in contents(out).values())
    now = ShardSet.open(out).read_clip("one")[0]
    assert (now.key, now.data, now.meta) == (other.key, other.data, other.meta)
    # The same list of removed ids, known from the start:
    anew.mkdir()
    shutil.copy(out / "removed.json", anew / "removed.json")
    build(BuildConfig((folder,), anew, shard_videos=4))
    assert contents(anew) == contents(out)
    # And building again does not bring them back.
    build(BuildConfig((folder,), out, shard_videos=4))
    assert contents(anew) == contents(out)


def test_a_shard_of_which_everything_is_removed_is_gone_and_what_was_removed_can_be_brought_back(
    folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out, shard_videos=1))
    first = ShardSet.open(out).shard_names[0]
    gone = next(row.video_id for row in ShardSet.open(out).clips_of(first)[:1])
    assert remove(out, [gone]).shards == [first] and not (out / first).exists()
    assert state(out)[gone] == "removed"
    build(BuildConfig((folder,), out, shard_videos=1, retry=("all",)))
    assert state(out)[gone] == "removed"  # "all" is not meant for what somebody asked to be taken out
    build(BuildConfig((folder,), out, shard_videos=1, retry=("removed",)))
    assert state(out)[gone] == ""
    assert read_json(out / "removed.json")["video_ids"] == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("step", range(9))
def test_a_removal_stopped_at_any_write_goes_on_to_the_same_bytes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    build(BuildConfig((folder,), out, shard_videos=4))
    shutil.copytree(out, whole)
    remove(whole, ["vp9", "front"])
    count, real = [0], os.replace

    def replace(source: Path, target: Path) -> None:
        if count[0] == step:
            raise Killed
        count[0] += 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    try:
        remove(out, ["vp9", "front"])
    except Killed:
        stopped = True
    else:
        stopped = False
    monkeypatch.setattr(os, "replace", real)
    assert stopped == (step < 9)
    if step % 2 or step == 0:  # before anything is written there is nothing that could go on
        remove(out, ["vp9", "front"])
    else:
        build(BuildConfig((folder,), out, shard_videos=4))  # a build finishes what was begun, too
    assert state(out)["vp9"] == state(out)["front"] == "removed"
    assert contents(out) == contents(whole)


def test_a_removal_from_a_damaged_shard_harms_nothing(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    row = next(clip for clip in ShardSet.open(out).clips_of("clips-000000.tar") if clip.video_id == "one")
    data = bytearray((out / "clips-000000.tar").read_bytes())
    data[row.offset + 100] ^= 1
    (out / "clips-000000.tar").write_bytes(data)
    with pytest.raises(ReelkinError, match=r"clips-000000\.tar: clip 000000_[0-9]+ is not as it was written.*verify"):
        remove(out, ["vp9"])
    assert (out / "clips-000000.tar").read_bytes() == bytes(data)
    (out / "clips-000000.tar").unlink()
    build(BuildConfig((folder,), out))
    assert state(out) == GOOD | {"cut": "truncated", "text": "not-a-video", "vp9": "removed"}


def test_the_remove_command_fails_for_unknown_ids_after_taking_out_the_others(folder: Path, tmp_path: Path) -> None:
    build(BuildConfig((folder,), tmp_path / "out"))
    (tmp_path / "ids.txt").write_text("vp9\nnobody\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, command.__file__, *arguments]
        return subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    assert run("out").returncode == 2
    dry = run("out", "--ids-file", "ids.txt", "--dry-run")
    assert (
        dry.returncode == 0 and "1 of 2 ids are known; 1 shards" in dry.stdout and state(tmp_path / "out")["vp9"] == ""
    )
    done = run("out", "--ids-file", "ids.txt", "--video-ids", "one")
    assert done.returncode == 1 and "1 ids have no row in out: 'nobody'" in done.stderr
    assert "taken out: 2 videos; written anew: clips-000000.tar" in done.stdout
    assert state(tmp_path / "out")["vp9"] == state(tmp_path / "out")["one"] == "removed"


def test_a_lost_shard_is_built_again_and_that_of_a_later_round_can_be_taken_up(
    folder: Path, made: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    build(BuildConfig((folder,), out))
    shutil.copy(made / "vp8.webm", folder / "another.webm")
    build(BuildConfig((folder,), out, add=True))
    before = contents(out)
    (out / "clips-000000.tar").unlink()
    (folder / "another.webm").rename(tmp_path / "another.webm")
    build(BuildConfig((folder,), out))
    assert contents(out) == before
    (out / "clips-000001.tar").unlink()
    build(BuildConfig((folder,), out))
    assert state(out)["another"] == "unreadable"
    (tmp_path / "another.webm").rename(folder / "another.webm")
    build(BuildConfig((folder,), out, retry=("unreadable",)))
    assert state(out)["another"] == ""


def test_a_file_that_changes_while_shards_are_built_is_rejected(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reelkin.shards.packing import building

    real = building.run_in_threads

    def change_first(builder: object, groups: object, threads: int) -> None:
        os.utime(folder / "one.mp4", (1, 1))
        real(builder, groups, threads)  # type: ignore[arg-type]

    monkeypatch.setattr(building, "run_in_threads", change_first)
    build(BuildConfig((folder,), tmp_path / "out"))
    assert state(tmp_path / "out")["one"] == "unreadable"


def test_find_names_the_shards_of_ids(folder: Path, tmp_path: Path) -> None:
    build(BuildConfig((folder,), tmp_path / "out", shard_videos=2))
    assert find(tmp_path / "out", ["cut", "text", "vp9", "nobody"]) == {0: {"cut"}, 2: {"text"}, 3: {"vp9"}}
    with pytest.raises(UsageError, match="no finished shards"):
        find(tmp_path, ["cut"])
    assert removal.find(tmp_path / "out", []) == {}
