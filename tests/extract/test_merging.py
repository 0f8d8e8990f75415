"""Joining stores: every video as in its source; what was made otherwise is refused; an addition costs what is new."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelkin.core.errors import ExitCode, Reason, UsageError
from reelkin.extract import merge as merge_command
from reelkin.extract import verify as verify_command
from reelkin.extract.storage.merging import merge, plan_merge
from reelkin.extract.storage.removal import remove
from reelkin.extract.store import FeatureStore, StoreRow, write_store

INFO: dict[str, Any] = {"encoder": {"name": "x", "weights_path": "here"}, "sampling": {"fps": 1.0}, "decoder": "pyav"}


def make(folder: Path, ids: str, rejects: str = "", dim: int = 4, **info: object) -> FeatureStore:
    """Videos named by letters; a letter's features are the same wherever they lie."""
    videos = {}
    for name in ids:
        count = ord(name) % 3 + 1
        features = np.random.default_rng(ord(name)).normal(size=(count, dim))
        videos[name] = features.astype(np.float16), np.arange(count) * 0.5
    rows = [StoreRow.rejected(name, Reason.DAMAGED, folder.name) for name in rejects]
    return write_store(folder, videos, {**INFO, **info}, rejects=rows, block_bytes=40)


def check(store: FeatureStore, ids: str) -> None:
    store.verify()
    assert store.video_ids == list(ids)
    for name in ids:
        expected = np.random.default_rng(ord(name)).normal(size=(ord(name) % 3 + 1, 4)).astype(np.float16)
        np.testing.assert_array_equal(store.features(name), expected)
        np.testing.assert_array_equal(store.times(name), np.arange(len(expected)) * 0.5)


def test_every_video_is_as_in_its_source_and_takes_no_room(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", "abcde", "xy"), make(tmp_path / "2", "fgh", "yc", encoder={"name": "x"})
    joined = merge(plan_merge([first, second], tmp_path / "all"))
    check(joined, "abcdefgh")
    assert {(row.video_id, row.detail) for row in joined.rejects} == {("x", "1"), ("y", "1")}  # c has features
    assert {os.stat(path).st_nlink for path in (tmp_path / "all").glob("*.safetensors")} == {2}
    check(FeatureStore.open(tmp_path / "1"), "abcde")


def test_of_duplicates_the_first_is_taken_if_at_all(tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", "abc"), make(tmp_path / "2", "cdbe")
    job = plan_merge([first, second], tmp_path / "all")
    assert sorted(job.duplicates) == ["b", "c"]
    with pytest.raises(UsageError, match="2 videos are in more than one .*--skip-duplicates"):
        merge(job)
    assert not (tmp_path / "all").exists()
    check(merge(job, skip_duplicates=True), "abcde")
    check(merge(plan_merge([first, make(tmp_path / "3", "abc")], tmp_path / "same"), skip_duplicates=True), "abc")


@pytest.mark.parametrize(
    "other,words",
    [
        ({"encoder": {"name": "y"}}, "encoder.name was 'x', is 'y' now"),
        ({"sampling": {"fps": 2.0}}, "sampling.fps was 1.0, is 2.0"),
        ({"pca": {"sha256": "0" * 64}}, "pca_sha256"),
        ({"dim": 5}, "dim was 4, is 5"),
    ],
)
def test_stores_that_were_made_otherwise_are_refused(other: dict[str, Any], words: str, tmp_path: Path) -> None:
    first, second = make(tmp_path / "1", "a"), make(tmp_path / "2", "b", **other)
    with pytest.raises(UsageError, match=words):
        plan_merge([first, second], tmp_path / "all")
    with pytest.raises(UsageError, match="is one of the stores"):
        plan_merge([first, make(tmp_path / "3", "c")], tmp_path / "1")
    with pytest.raises(UsageError, match="were not joined"):
        plan_merge([first, make(tmp_path / "3", "c")], make(tmp_path / "4", "d").path)


def test_a_further_store_costs_what_is_new_and_removed_videos_stay_out(tmp_path: Path) -> None:
    first, second, third = make(tmp_path / "1", "abc"), make(tmp_path / "2", "def"), make(tmp_path / "3", "gh")
    check(merge(plan_merge([first, second], tmp_path / "all")), "abcdef")
    times = {path: path.stat().st_ino for path in (tmp_path / "all").glob("*.safetensors")}
    job = plan_merge([first, second, third], tmp_path / "all")
    assert {part.source for part in job.missing} == {third}
    check(merge(job), "abcdefgh")
    assert all(path.stat().st_ino == inode for path, inode in times.items())
    remove(tmp_path / "all", ["b", "h"])
    check(FeatureStore.open(tmp_path / "all"), "acdefg")
    again = merge(plan_merge([first, second, third, make(tmp_path / "4", "i")], tmp_path / "all"))
    check(again, "acdefgi")
    assert {row.video_id: row.reason for row in again.rejects} == {"b": "removed", "h": "removed"}
    blob = b"".join(path.read_bytes() for path in (tmp_path / "all").iterdir())
    assert first.features("b").tobytes() not in blob and first.features("a").tobytes() in blob
    check(FeatureStore.open(tmp_path / "1"), "abc")  # the sources stay as they are


def test_the_commands_count_join_and_verify(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, ids in (("1", "abc"), ("2", "cd")):
        make(tmp_path / name, ids)
    flags = ["--features", str(tmp_path / "1"), str(tmp_path / "2"), "--output", str(tmp_path / "all")]
    assert merge_command.main([*flags, "--dry-run"]) == ExitCode.OK
    assert "4 videos in" in (told := capfd.readouterr().out) and "1 videos in more than one store" in told
    assert merge_command.main(flags) == ExitCode.USAGE
    assert merge_command.main([*flags, "--skip-duplicates"]) == ExitCode.OK
    assert verify_command.main([str(tmp_path / "all")]) == ExitCode.OK
    assert "0 problems" in capfd.readouterr().out
    path = next((tmp_path / "1").glob("*.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)  # the same file as the joined store's
    assert verify_command.main([str(tmp_path / "all")]) == ExitCode.FAILED
    said = capfd.readouterr()
    assert "has changed since it was written" in said.err and "1 problems" in said.out
