"""Verifying: no changed byte, no cut and no hostile archive passes, and a report says what to do about it."""

from __future__ import annotations

import json
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import publish_table, sha256_file
from reelkin.shards import verify as command
from reelkin.shards.index import INDEX_NAME, TABLES
from reelkin.shards.manifest import REJECTED, VideoRow
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.packing.removal import remove
from reelkin.shards.reader import ShardSet
from reelkin.shards.verification import verify_shards
from reelkin.tests.helpers import videos
from reelkin.tests.helpers.shard_sets import ShardSetMaker, write_index, write_tables


@pytest.fixture
def made(tmp_path: Path) -> ShardSetMaker:
    (tmp_path / "set").mkdir()
    return ShardSetMaker(tmp_path / "set")


def found(folder: Path, **settings: Any) -> list[str]:
    """What verification says, without warnings."""
    return [str(problem) for problem in verify_shards(folder, **settings).damage]


@pytest.mark.parametrize("quick", [False, True])
def test_a_set_as_written_is_whole(made: ShardSetMaker, quick: bool) -> None:
    report = verify_shards(made.folder, quick=quick)
    assert report.problems == [] and report.affected == []
    assert (report.num_ok, report.num_rejected, report.num_clips, report.num_shards) == (6, 1, 12, 3)
    assert report.bytes == sum(path.stat().st_size for path in made.folder.glob("*.tar"))
    ShardSet.open(made.folder).verify()


def test_a_set_of_rejects_alone_is_whole(tmp_path: Path) -> None:
    write_tables(tmp_path, [VideoRow("a", REJECTED, "removed"), VideoRow("b", REJECTED, "timeout")], [])
    write_index(tmp_path, [])
    assert verify_shards(tmp_path).problems == []


# --- damage -----------------------------------------------------------------------------------------------------------


def places(folder: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Seeded offsets over the files of a set: half in shards, the rest in tables and shards.json."""
    rng = random.Random(seed)
    tars = sorted(path.name for path in folder.glob("*.tar"))
    small = [*TABLES, INDEX_NAME]
    chosen = []
    for number in range(count):
        name = rng.choice(tars if number % 2 else small)
        chosen.append((name, rng.randrange((folder / name).stat().st_size)))
    return chosen


def test_every_cut_is_found_by_opening_and_by_verifying(made: ShardSetMaker) -> None:
    for name, offset in places(made.folder, 50, seed=1):
        path = made.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:offset])
        with pytest.raises(ReelkinError, match=name):
            ShardSet.open(made.folder)
        for quick in (False, True):
            report = verify_shards(made.folder, quick=quick)
            assert report.damaged_files == [name], (name, offset, report.lines())
        path.write_bytes(whole)
    assert verify_shards(made.folder).problems == []


def test_every_flipped_bit_is_found(made: ShardSetMaker) -> None:
    for number, (name, offset) in enumerate(places(made.folder, 100, seed=2)):
        path = made.folder / name
        whole = path.read_bytes()
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 1 << number % 8]) + whole[offset + 1 :])
        report = verify_shards(made.folder)
        assert report.damaged_files == [name], (name, offset, report.lines())
        if not name.endswith(".tar"):
            with pytest.raises(ReelkinError):
                ShardSet.open(made.folder)
        path.write_bytes(whole)
    assert verify_shards(made.folder).problems == []


@pytest.mark.slow
def test_every_bit_of_shards_json_counts(made: ShardSetMaker) -> None:
    path = made.folder / INDEX_NAME
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(ReelkinError):
                ShardSet.open(made.folder)


@pytest.mark.slow
def test_every_part_of_a_shard_counts(made: ShardSetMaker) -> None:
    path = made.folder / made.shards[1]["name"]
    whole = path.read_bytes()
    for position in range(0, len(whole), 23):  # 23 is odd, so over the blocks every place in a header has its turn
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        assert verify_shards(made.folder, workers=1).damaged_files == [path.name], position


def test_damage_to_a_clip_names_its_video_and_no_other(made: ShardSetMaker) -> None:
    row = made.clips[5]
    path = made.folder / row.shard
    data = bytearray(path.read_bytes())
    data[row.offset] ^= 1
    path.write_bytes(data)
    report = verify_shards(made.folder)
    assert report.affected == [row.video_id]
    problem = report.damage[0]
    assert (problem.file, problem.offset, problem.key, problem.video_id) == (
        row.shard,
        row.offset,
        row.key,
        row.video_id,
    )
    assert verify_shards(made.folder, quick=True).problems == []  # no data is read


def test_all_damage_is_found_not_only_the_first(made: ShardSetMaker) -> None:
    first, second = made.folder / made.shards[0]["name"], made.folder / made.shards[2]["name"]
    data = bytearray(first.read_bytes())
    data[made.clips[0].offset - 512] ^= 1  # a header
    data[made.clips[2].offset] ^= 1  # a clip
    data[-1] ^= 1  # the padding at the end
    first.write_bytes(data)
    second.unlink()
    report = verify_shards(made.folder)
    assert {problem.offset for problem in report.damage if problem.file == first.name} >= {
        made.clips[0].offset - 512,
        made.clips[2].offset,
        len(data) - 1,
    }
    assert report.damaged_files == [first.name, second.name]
    assert report.affected == ["video 0.0", "video 0.1", "video 2.0", "video 2.1"]
    with pytest.raises(ReelkinError, match=rf"{first.name}[\s\S]*{second.name}"):
        report.raise_if_damaged()


def test_damaged_padding_affects_no_other_clip_and_damaged_facts_are_seen(made: ShardSetMaker) -> None:
    row = made.clips[1]
    path = made.folder / row.shard
    whole = path.read_bytes()
    assert row.bytes % 512
    for position, affected in (
        (row.offset + row.bytes, [row.video_id]),  # the first byte of the padding
        (whole.index(b'"num_frames": 25', row.offset) + 14, [row.video_id]),
    ):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        report = verify_shards(made.folder)
        assert report.affected == affected, report.lines()


def test_opening_names_every_shard_that_was_cut(made: ShardSetMaker) -> None:
    for shard in made.shards[:2]:
        os.truncate(made.folder / shard["name"], shard["bytes"] - 1)
    (made.folder / made.shards[2]["name"]).unlink()
    with pytest.raises(ReelkinError, match=r"000000\.tar has .*000001\.tar has .*000002\.tar is missing"):
        ShardSet.open(made.folder)


def test_what_lies_beside_is_a_warning(made: ShardSetMaker) -> None:
    (made.folder / "clips-000099.tar").write_bytes(b"")
    (made.folder / ".clips-000003.tar.partial-0-1-2").write_bytes(b"")
    report = verify_shards(made.folder)
    assert report.damage == [] and {problem.file for problem in report.problems} == {
        "clips-000099.tar",
        ".clips-000003.tar.partial-0-1-2",
    }


def test_annotations_are_verified(made: ShardSetMaker) -> None:
    (made.folder / "annotations").mkdir()
    table = made.folder / "annotations" / "pairs.csv"
    table.write_text("query,video\n")
    write_index(made.folder, made.shards, annotations={"pairs.csv": sha256_file(table)})
    assert verify_shards(made.folder).problems == []
    table.write_text("query,video\na,b\n")
    assert found(made.folder) == ["damaged annotations/pairs.csv: not as written (SHA-256 differs)"]


# --- what shards/build.py and shards/remove.py make -------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    """A build of real videos with rejects; copy its output before changing it."""
    folder = tmp_path_factory.mktemp("built")
    (folder / "videos").mkdir()
    for number in range(5):
        videos.make_video(folder / "videos" / f"video {number}.mp4", seconds=1 + number / 5)
    videos.make_text(folder / "videos" / "text.mp4")
    videos.make_empty(folder / "videos" / "empty.mp4")
    config = BuildConfig(videos=(folder / "videos",), output=folder / "shards", shard_videos=2, workers=1)
    build(config)
    return config


def copy_of(built: BuildConfig, tmp_path: Path) -> BuildConfig:
    """The same build in a folder of its own."""
    return replace(built, output=Path(shutil.copytree(built.output, tmp_path / "copy")))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["clips-000001.tar", "clips.parquet", "manifest.parquet", INDEX_NAME])
def test_doing_what_the_report_says_repairs_the_folder(built: BuildConfig, tmp_path: Path, name: str) -> None:
    config = copy_of(built, tmp_path)
    path = config.output / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    report = verify_shards(config.output)
    assert f"move {name} out of {config.output}" in report.verdict()
    path.rename(tmp_path / name)
    build(config)
    assert verify_shards(config.output).problems == []
    assert contents(config.output) == contents(built.output)


def test_a_set_from_which_a_video_was_taken_is_whole(built: BuildConfig, tmp_path: Path) -> None:
    config = copy_of(built, tmp_path)
    remove(config.output, ["video 0", "video 3"])
    report = verify_shards(config.output)
    assert report.problems == [] and (report.num_ok, report.num_clips) == (3, 3)


# --- tables that contradict -------------------------------------------------------------------------------------------


def lie(made: ShardSetMaker, table: str, number: int, **fields: object) -> None:
    rows: list[Any] = made.videos if table == "videos" else made.clips
    rows[number] = replace(rows[number], **fields)
    made.write()


@pytest.mark.parametrize(
    ("table", "number", "fields", "words"),
    [
        ("videos", 0, {"status": "odd"}, "status"),
        ("videos", 0, {"reason": "timeout"}, "a reason although"),
        ("videos", 0, {"num_clips": 3}, "num_clips other than"),
        ("videos", 0, {"num_clips": 0}, "has no clip"),
        ("videos", 0, {"video_id": "video 0.1"}, "several accepted videos"),
        ("videos", 0, {"status": REJECTED, "reason": "timeout"}, "rejected video with clips"),
        ("videos", 0, {"status": REJECTED, "reason": "timeout", "num_clips": 0}, "video that is not accepted"),
        ("videos", 6, {"reason": "bad luck"}, "no known reason"),
        ("videos", 6, {"reason": ""}, "no known reason"),
        ("clips", 1, {"key": "000000_000000"}, "another row"),
        ("clips", 1, {"key": "000001_000009"}, "row's shard"),
        ("clips", 1, {"key": "../../etc"}, "never written"),
        ("clips", 1, {"container": "json"}, "container json"),
        ("clips", 1, {"bytes": -1}, "size that no member"),
        ("clips", 1, {"bytes": 1 << 20}, "behind the end"),
        ("clips", 1, {"offset": 1 << 40}, "behind the end"),
        ("clips", 1, {"offset": 512}, "overlaps"),
        ("clips", 1, {"offset": -512}, "no member can begin"),
        ("clips", 1, {"shard": "clips-000007.tar"}, "does not name"),
        ("clips", 0, {"shard": "clips-000001.tar"}, "order of shards.json"),
        ("clips", 1, {"start_seconds": float("nan")}, "is no time"),
        ("clips", 1, {"sha256": "0" * 64}, "not those that were written"),
        ("clips", 1, {"start_seconds": 7.0}, "says otherwise about start_seconds"),
        ("clips", 1, {"video_id": "video 0.1"}, "says otherwise about video_id"),
        ("clips", 1, {"container": "webm"}, "places 000000_000001.webm"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tables_that_lie_are_found_though_every_hash_fits(
    made: ShardSetMaker, table: str, number: int, fields: dict[str, object], words: str
) -> None:
    lie(made, table, number, **fields)
    assert any(words in text for text in found(made.folder)), found(made.folder)


def test_a_shard_with_another_number_of_clips_is_found(made: ShardSetMaker) -> None:
    made.shards[1]["num_clips"] = 3
    made.write()
    assert any("holds 4 clips" in text for text in found(made.folder))


def test_a_table_without_a_column_is_named(made: ShardSetMaker) -> None:
    publish_table(made.folder / "clips.parquet", pa.table({"video_id": ["a"], "key": [3]}))
    write_index(made.folder, made.shards)
    texts = found(made.folder)
    assert "damaged clips.parquet: has no column shard" in texts
    assert "damaged clips.parquet: its column key is of type int64 instead of string" in texts


def test_without_shards_json_the_rest_is_still_compared(made: ShardSetMaker) -> None:
    (made.folder / INDEX_NAME).unlink()
    path = made.folder / made.clips[4].shard
    data = bytearray(path.read_bytes())
    data[made.clips[4].offset] ^= 1
    path.write_bytes(data)
    report = verify_shards(made.folder)
    assert report.damaged_files == [INDEX_NAME, path.name] and report.affected == [made.clips[4].video_id]
    assert f"move {path.name} out of" in report.verdict()  # there is no shards.json to be moved


def test_shards_json_cannot_name_files_elsewhere(made: ShardSetMaker) -> None:
    shutil.copy(made.folder / "clips-000000.tar", made.folder.parent / "clips-000000.tar")
    made.shards[0]["name"] = "../clips-000000.tar"
    made.write()
    with pytest.raises(ReelkinError, match="is no shard's name"):
        ShardSet.open(made.folder)
    assert INDEX_NAME in verify_shards(made.folder).damaged_files


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_to_do_and_ends_with_one(made: ShardSetMaker, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(made.folder)]) == 0
    assert "is whole: every byte" in capsys.readouterr().out
    os.truncate(made.folder / "clips-000002.tar", 100)
    assert command.main([str(made.folder), "--json", str(made.folder.parent / "list.json"), "--workers", "1"]) == 1
    said = capsys.readouterr().out.splitlines()[-1]
    assert "2 videos are affected: 'video 2.0', 'video 2.1'" in said
    assert f"move clips-000002.tar out of {made.folder}" in said and "same shards/build.py command again" in said
    told = json.loads((made.folder.parent / "list.json").read_text())
    assert told["whole"] is False and told["affected"] == ["video 2.0", "video 2.1"]
    assert {problem["file"] for problem in told["problems"]} == {"clips-000002.tar"}


def test_a_folder_without_shards_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 2
    assert command.main([str(tmp_path / "nowhere")]) == 2
    with pytest.raises(UsageError, match="holds no shards"):
        verify_shards(tmp_path)
    with pytest.raises(SystemExit) as stop:
        command.main([])
    assert stop.value.code == 2
