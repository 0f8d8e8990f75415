"""Taking videos out of a store: they leave the disk, the others keep every bit, and a kill at any step heals."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from reelkin.core.errors import ExitCode, Reason, ReelkinError
from reelkin.core.files import publish_json, read_json
from reelkin.extract import remove as remove_command
from reelkin.extract.storage.removal import plan_removal, remove
from reelkin.extract.storage.removed import read_removed, write_removed
from reelkin.extract.store import FeatureStore, StoreRow, write_store

INFO = {"encoder": {"name": "test"}, "pca": None, "sampling": {"fps": 1.0}}
VIDEOS = {
    name: (np.random.default_rng(number).normal(size=(number % 3 + 1, 4)).astype(np.float16), np.arange(number % 3 + 1))
    for number, name in enumerate(["a", "b/1", "c d", "é", "'q\"", "f", "g", "h", "i"])
}


def make_store(folder: Path, records: bool = True) -> FeatureStore:
    """Nine videos in five blocks, with a record beside each as an extraction leaves them."""
    store = write_store(folder, VIDEOS, INFO, block_bytes=40, rejects=[StoreRow.rejected("bad", Reason.DAMAGED, "cut")])
    for block in store.info["blocks"] if records else ():
        rows = [asdict(store.row(name)) for name in store.video_ids if store.row(name).block == block["name"]]
        record = {"format": "some-record", "version": 1, "made_from": {"kept": "as it is"}, "block": block}
        publish_json(folder / (block["name"].removesuffix(".safetensors") + ".json"), {**record, "rows": rows})
    return store


def check_without(folder: Path, gone: set[str]) -> None:
    """The store holds the videos that were not taken out, bit for bit, and none of the others' bytes."""
    store = FeatureStore.open(folder)
    store.verify()
    assert store.video_ids == [name for name in VIDEOS if name not in gone]
    for name in store.video_ids:
        np.testing.assert_array_equal(store.features(name), VIDEOS[name][0])
        np.testing.assert_array_equal(store.times(name), VIDEOS[name][1])
    rows = {row.video_id: row for row in store.rejects}
    assert {name for name, row in rows.items() if row.reason == "removed"} == gone
    assert all(rows[name] == StoreRow.rejected(name, "removed", "taken out on request") for name in gone)
    blob = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not [name for name in gone if VIDEOS[name][0].tobytes() in blob]
    assert all(VIDEOS[name][0].tobytes() in blob for name in store.video_ids)
    for path in folder.glob("features-*.json"):
        record = read_json(path)
        assert record["made_from"] == {"kept": "as it is"}
        assert record["block"] in store.info["blocks"]
        for row in record["rows"]:
            found = store.row(row["video_id"]) if row["status"] == "ok" else rows[row["video_id"]]
            assert asdict(found) == row
    assert not [path for path in folder.iterdir() if "partial" in path.name or "removing" in path.name]


@pytest.mark.parametrize("records", [True, False], ids=["with records", "without records"])
@pytest.mark.parametrize("gone", [{"b/1"}, {"a", "é", "'q\"", "i"}, set(VIDEOS)], ids=["one", "some", "all"])
def test_removed_videos_leave_the_disk_and_the_others_keep_every_bit(
    gone: set[str], records: bool, tmp_path: Path
) -> None:
    make_store(tmp_path, records)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    plan = remove(tmp_path, [*gone, "unknown"])
    assert plan.unknown == ["unknown"] and plan.with_features == len(gone)
    check_without(tmp_path, gone)
    changed = {name for name, time in before.items() if (tmp_path / name).stat().st_mtime_ns != time}
    assert changed == set(plan.blocks)
    assert read_removed(tmp_path) == gone


def test_removals_add_up_and_a_second_time_changes_nothing(tmp_path: Path) -> None:
    make_store(tmp_path)
    remove(tmp_path, ["a"])
    remove(tmp_path, ["c d", "bad"])
    check_removed = {row.video_id: row.reason for row in FeatureStore.open(tmp_path).rejects}
    assert check_removed == {"a": "removed", "c d": "removed", "bad": "removed"}
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert remove(tmp_path, ["a"]).blocks == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert read_removed(tmp_path) == {"a", "c d", "bad"}


def test_a_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    make_store(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    plan = plan_removal(tmp_path, ["a", "b/1", "bad", "unknown"])
    assert plan.known == {"a", "b/1", "bad"} and plan.unknown == ["unknown"] and plan.with_features == 2
    assert plan.bytes == sum((tmp_path / name).stat().st_size for name in plan.blocks) > 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_block_that_no_manifest_lists_loses_its_features_too(tmp_path: Path) -> None:
    """A run with --limit after a full one leaves blocks with records, for a later run to use."""
    full = make_store(tmp_path / "full")
    write_store(tmp_path / "store", {"a": VIDEOS["a"]}, INFO)
    last = full.info["blocks"][-1]["name"].removesuffix(".safetensors")
    for suffix in (".safetensors", ".json"):
        shutil.copy(tmp_path / "full" / (last + suffix), tmp_path / "store")
    plan = remove(tmp_path / "store", ["i"])
    assert plan.unknown == [] and plan.blocks == [last + ".safetensors"]
    blob = b"".join(path.read_bytes() for path in (tmp_path / "store").iterdir())
    assert VIDEOS["i"][0].tobytes() not in blob and VIDEOS["a"][0].tobytes() in blob


def test_a_damaged_block_is_not_written_anew_as_if_it_were_whole(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    path = tmp_path / store.row("a").block
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReelkinError, match="has changed since it was written"):
        remove(tmp_path, ["a"])
    with pytest.raises(ReelkinError, match=r"run extract/remove\.py --features"):
        FeatureStore.open(tmp_path)
    data[-1] ^= 1
    path.write_bytes(data)
    remove(tmp_path, [])
    check_without(tmp_path, {"a"})


def test_a_damaged_list_of_removed_videos_is_an_error(tmp_path: Path) -> None:
    write_removed(tmp_path, ["a"])
    assert read_removed(tmp_path) == {"a"} and read_removed(tmp_path / "elsewhere") == frozenset()
    for text in ("[]", "{}", '{"format": "reelkin-features-removed", "version": 9, "video_ids": []}', "nonsense"):
        (tmp_path / "removed.json").write_text(text)
        with pytest.raises(ReelkinError, match=r"removed\.json"):
            read_removed(tmp_path)


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
import numpy as np
from reelkin.extract.storage.removal import remove
source, target = Path(sys.argv[1]), Path(sys.argv[2])

def dies_at(step):
    # every change of the folder goes through one of these; before the n-th or after it
    left = [step // 2]
    def counted(change):
        def changing(*arguments, **more):
            if not left[0] and step % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return change(*arguments, **more)
            finally:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
        return changing
    for name in ("replace", "rename", "unlink"):
        setattr(os, name, counted(getattr(os, name)))

step = 0
while True:
    folder = target / str(step)
    shutil.copytree(source, folder)
    child = os.fork()
    if not child:
        dies_at(step)
        remove(folder, sys.argv[3:])
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if status != signal.SIGKILL:
        assert status == 0
        break
    step += 1
print(step)
"""


def test_killed_between_any_two_steps_it_opens_or_says_what_finishes_it(tmp_path: Path) -> None:
    gone = ["b/1", "é", "i"]
    make_store(tmp_path / "store")
    (tmp_path / "killed").mkdir()
    command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(tmp_path / "killed"), *gone]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    steps = int(done.stdout)
    assert steps >= 10
    opened = 0
    for step in range(steps):
        folder = tmp_path / "killed" / str(step)
        try:
            store = FeatureStore.open(folder)
            store.verify()
            assert set(gone) <= set(store.video_ids) or set(gone).isdisjoint(store.video_ids)
            opened += 1
        except ReelkinError as error:
            assert "extract/remove.py" in str(error)
        remove(folder, gone if step % 3 else [])
        if step % 3 or read_removed(folder):
            check_without(folder, set(gone))
    assert 0 < opened < steps


def test_the_command_tells_what_it_did(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "store")
    (tmp_path / "ids.txt").write_text("a\nc d\nnobody\n")
    flags = ["--features", str(tmp_path / "store"), "--ids-file", str(tmp_path / "ids.txt"), "--video-ids", "é"]
    assert remove_command.main([*flags, "--dry-run"]) == ExitCode.OK
    assert "3 of 4 ids are known, 3 videos with features to take out" in capfd.readouterr().out
    assert remove_command.main(flags) == ExitCode.FAILED
    said = capfd.readouterr()
    assert "taken out: 3 videos" in said.out and "left: 6 videos, 4 without features; 3 kept out" in said.out
    assert "1 ids have no row" in said.err and "'nobody'" in said.err
    check_without(tmp_path / "store", {"a", "c d", "é"})
    with pytest.raises(SystemExit) as stop:
        remove_command.main(["--features", str(tmp_path / "store")])
    assert stop.value.code == ExitCode.USAGE
    assert "give ids with --video-ids" in capfd.readouterr().err
