"""Verifying: no changed byte, no cut and no hostile archive passes, and a report says what to do about it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import shutil
import tarfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from reelkin.core.errors import ReelkinError, UsageError
from reelkin.core.files import publish_json, publish_table, sha256_file
from reelkin.shards import verify as command
from reelkin.shards.archive import ArchiveError, member_header, read_members
from reelkin.shards.index import FORMAT, INDEX_NAME, TABLES, VERSION, sealed
from reelkin.shards.manifest import OK, REJECTED, ClipRow, VideoRow
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.packing.removal import remove
from reelkin.shards.reader import ShardSet
from reelkin.shards.verification import verify_shards
from reelkin.shards.writer import writing_shard
from reelkin.tests.helpers import videos

NUM_SHARDS, CLIPS_A_SHARD = 3, 4


def write_index(folder: Path, shards: list[dict[str, Any]], **more: object) -> None:
    """Write shards.json over the tables that lie in ``folder``."""
    tables = {name: sha256_file(folder / name) for name in TABLES}
    info = {"format": FORMAT, "version": VERSION, "shards": shards, "tables": tables, "config": {}, **more}
    publish_json(folder / INDEX_NAME, sealed(info))


def write_tables(folder: Path, videos: list[VideoRow], clips: list[ClipRow]) -> None:
    for name, rows, kind in (("manifest.parquet", videos, VideoRow), ("clips.parquet", clips, ClipRow)):
        publish_table(folder / name, pa.Table.from_pylist([asdict(row) for row in rows], schema=kind.SCHEMA))


class Made:
    """A set of shards with its rows at hand, so that a test can write it again with a lie in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos: list[VideoRow] = []
        self.clips: list[ClipRow] = []
        self.shards: list[dict[str, Any]] = []
        rng = random.Random(0)
        for shard in range(NUM_SHARDS):
            self._write_shard(shard, rng)
        self.videos.append(VideoRow("unusable", REJECTED, "truncated", "cut in the middle", "unusable.mp4", bytes=7))
        self.write()

    def _write_shard(self, shard: int, rng: random.Random) -> None:
        name = f"clips-{shard:06d}.tar"
        with writing_shard(self.folder / name) as writer:
            for number in range(CLIPS_A_SHARD):
                data = rng.randbytes(rng.randint(1, 3000))
                video_id, key = f"video {shard}.{number // 2}", f"{shard:06d}_{number:06d}"
                start = 2.5 * (number % 2)
                facts = {"video_id": video_id, "start_seconds": start, "duration_seconds": 2.5, "num_frames": 25}
                member = writer.add(key, "mp4", data, facts)
                row = (video_id, name, key, "mp4", start, 2.5, 25, member.bytes, member.sha256, member.offset)
                self.clips.append(ClipRow(*row))
            self.videos += [VideoRow(f"video {shard}.{n}", OK, num_clips=2, num_frames=50) for n in range(2)]
        self.shards.append(
            {"name": name, "bytes": writer.bytes, "sha256": writer.sha256, "num_clips": writer.num_clips}
        )

    def write(self) -> None:
        write_tables(self.folder, self.videos, self.clips)
        write_index(self.folder, self.shards)

    def trust(self, name: str) -> None:
        """Make shards.json agree with a shard that was exchanged."""
        for shard in self.shards:
            if shard["name"] == name:
                shard["bytes"] = (self.folder / name).stat().st_size
                shard["sha256"] = sha256_file(self.folder / name)
        self.write()


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "set").mkdir()
    return Made(tmp_path / "set")


def found(folder: Path, **settings: Any) -> list[str]:
    """What verification says, without warnings."""
    return [str(problem) for problem in verify_shards(folder, **settings).damage]


@pytest.mark.parametrize("quick", [False, True])
def test_a_set_as_written_is_whole(made: Made, quick: bool) -> None:
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


def test_every_cut_is_found_by_opening_and_by_verifying(made: Made) -> None:
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


def test_every_flipped_bit_is_found(made: Made) -> None:
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
def test_every_bit_of_shards_json_counts(made: Made) -> None:
    path = made.folder / INDEX_NAME
    whole = path.read_bytes()
    for position in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 1 << bit]) + whole[position + 1 :])
            with pytest.raises(ReelkinError):
                ShardSet.open(made.folder)


@pytest.mark.slow
def test_every_part_of_a_shard_counts(made: Made) -> None:
    path = made.folder / made.shards[1]["name"]
    whole = path.read_bytes()
    for position in range(0, len(whole), 23):  # 23 is odd, so over the blocks every place in a header has its turn
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        assert verify_shards(made.folder, workers=1).damaged_files == [path.name], position


def test_damage_to_a_clip_names_its_video_and_no_other(made: Made) -> None:
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


def test_all_damage_is_found_not_only_the_first(made: Made) -> None:
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


def test_damaged_padding_affects_no_other_clip_and_damaged_facts_are_seen(made: Made) -> None:
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


def test_opening_names_every_shard_that_was_cut(made: Made) -> None:
    for shard in made.shards[:2]:
        os.truncate(made.folder / shard["name"], shard["bytes"] - 1)
    (made.folder / made.shards[2]["name"]).unlink()
    with pytest.raises(ReelkinError, match=r"000000\.tar has .*000001\.tar has .*000002\.tar is missing"):
        ShardSet.open(made.folder)


def test_what_lies_beside_is_a_warning(made: Made) -> None:
    (made.folder / "clips-000099.tar").write_bytes(b"")
    (made.folder / ".clips-000003.tar.partial-0-1-2").write_bytes(b"")
    report = verify_shards(made.folder)
    assert report.damage == [] and {problem.file for problem in report.problems} == {
        "clips-000099.tar",
        ".clips-000003.tar.partial-0-1-2",
    }


def test_annotations_are_verified(made: Made) -> None:
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


def lie(made: Made, table: str, number: int, **fields: object) -> None:
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
    made: Made, table: str, number: int, fields: dict[str, object], words: str
) -> None:
    lie(made, table, number, **fields)
    assert any(words in text for text in found(made.folder)), found(made.folder)


def test_a_shard_with_another_number_of_clips_is_found(made: Made) -> None:
    made.shards[1]["num_clips"] = 3
    made.write()
    assert any("holds 4 clips" in text for text in found(made.folder))


def test_a_table_without_a_column_is_named(made: Made) -> None:
    publish_table(made.folder / "clips.parquet", pa.table({"video_id": ["a"], "key": [3]}))
    write_index(made.folder, made.shards)
    texts = found(made.folder)
    assert "damaged clips.parquet: has no column shard" in texts
    assert "damaged clips.parquet: its column key is of type int64 instead of string" in texts


def test_without_shards_json_the_rest_is_still_compared(made: Made) -> None:
    (made.folder / INDEX_NAME).unlink()
    path = made.folder / made.clips[4].shard
    data = bytearray(path.read_bytes())
    data[made.clips[4].offset] ^= 1
    path.write_bytes(data)
    report = verify_shards(made.folder)
    assert report.damaged_files == [INDEX_NAME, path.name] and report.affected == [made.clips[4].video_id]
    assert f"move {path.name} out of" in report.verdict()  # there is no shards.json to be moved


def test_shards_json_cannot_name_files_elsewhere(made: Made) -> None:
    shutil.copy(made.folder / "clips-000000.tar", made.folder.parent / "clips-000000.tar")
    made.shards[0]["name"] = "../clips-000000.tar"
    made.write()
    with pytest.raises(ReelkinError, match="is no shard's name"):
        ShardSet.open(made.folder)
    assert INDEX_NAME in verify_shards(made.folder).damaged_files


# --- hostile archives -------------------------------------------------------------------------------------------------

KEY = "000001_000000"


def member(name: str, data: bytes = b"x" * 600, format: int = tarfile.USTAR_FORMAT, **fields: Any) -> bytes:
    """A member as tarfile writes it, with header fields set as wished."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(format) + data + bytes(-len(data) % 512)


def facts(data: bytes = b"x" * 600, **more: object) -> bytes:
    content = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}
    return json.dumps(content).encode()


def ended(body: bytes) -> bytes:
    body += bytes(1024)
    return body + bytes(-len(body) % 10240)


def resigned(header: bytes) -> bytes:
    """A header with its checksum made right again."""
    bare = header[:148] + b" " * 8 + header[156:512]
    return bare[:148] + b"%06o\0 " % sum(bare) + bare[156:] + header[512:]


def with_size_field(field: bytes) -> bytes:
    whole = member(f"{KEY}.mp4")
    return resigned(whole[:124] + field.ljust(12, b"\0") + whole[136:])


GOOD = member(f"{KEY}.mp4") + member(f"{KEY}.json", facts())
JSON = member(f"{KEY}.json", facts())
PAX = {"format": tarfile.PAX_FORMAT}
SPARSE = {"type": tarfile.GNUTYPE_SPARSE}
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a name with ..": (ended(member("../x.mp4") + JSON), "leads out"),
    "an absolute name": (ended(member("/etc/x.mp4") + JSON), "absolute"),
    "a symbolic link": (
        ended(member(f"{KEY}.mp4", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd") + JSON),
        "symbolic",
    ),
    "a hard link": (
        ended(member(f"{KEY}.mp4", b"", type=tarfile.LNKTYPE, linkname="000001_000001.mp4") + JSON),
        "hard",
    ),
    "a device": (ended(member(f"{KEY}.mp4", b"", type=tarfile.CHRTYPE, devmajor=1) + JSON), "character device"),
    "a block device": (ended(member(f"{KEY}.mp4", b"", type=tarfile.BLKTYPE) + JSON), "block device"),
    "a named pipe": (ended(member(f"{KEY}.mp4", b"", type=tarfile.FIFOTYPE) + JSON), "named pipe"),
    "a folder": (ended(member("videos", b"", type=tarfile.DIRTYPE) + GOOD), "a folder"),
    "an old regular file": (ended(member(f"{KEY}.mp4", type=tarfile.AREGTYPE) + JSON), "old kind"),
    "an unknown type": (ended(member(f"{KEY}.mp4", type=b"Z") + JSON), "unknown type"),
    "a PAX size": (ended(member(f"{KEY}.mp4", pax_headers={"size": "5"}, **PAX) + JSON), "PAX header"),
    "a PAX name": (ended(member(f"{KEY}.mp4", pax_headers={"path": "../x"}, **PAX) + JSON), "PAX header"),
    "a GNU long name": (ended(member("a" * 200 + ".mp4", format=tarfile.GNU_FORMAT) + JSON), "long name"),
    "a GNU sparse file": (ended(member(f"{KEY}.mp4", format=tarfile.GNU_FORMAT, **SPARSE) + JSON), "sparse"),
    "a size in base 256": (ended(with_size_field(b"\x80" + bytes(9) + b"\x02\x58") + JSON), "base 256"),
    "a negative size": (ended(with_size_field(b"\xff" * 12) + JSON), "negative size"),
    "a size with a sign": (ended(with_size_field(b"-0000001130") + JSON), "negative size"),
    "a size with spaces": (ended(with_size_field(b"       1130 ") + JSON), "another way"),
    "a size past the end": (ended(with_size_field(b"00077777777") + JSON), "more than the file holds"),
    "an overlong size": (ended(with_size_field(b"77777777777") + JSON), "more than the file holds"),
    "a wrong checksum": (ended(GOOD[:150] + bytes([GOOD[150] ^ 1]) + GOOD[151:]), "checksum"),
    "padding that is not zero": (ended(GOOD[:1200] + b"!" + GOOD[1201:]), "padding"),
    "a second archive behind": (ended(GOOD) + ended(GOOD), "behind the archive"),
    "a record of zeros behind": (ended(GOOD) + bytes(10240), "behind the archive"),
    "bytes behind": (ended(GOOD) + b"\0", "behind the archive"),
    "bytes in the last record": (ended(GOOD)[:-1] + b"!", "not zero behind"),
    "no end": (GOOD, "cut"),
    "one block at the end": (GOOD + bytes(512), "cut"),
    "nothing": (ended(b""), "before the first member"),
    "no bytes": (b"", "cut|before the first"),
    "members that are swapped": (ended(JSON + member(f"{KEY}.mp4")), "no video of this key"),
    "a video without JSON": (ended(member(f"{KEY}.mp4")), "must stand"),
    "two videos of a key": (ended(member(f"{KEY}.mp4") + member(f"{KEY}.webm") + JSON), "must stand"),
    "another key's JSON": (ended(member(f"{KEY}.mp4") + member("000001_000001.json", facts())), "no video of this key"),
    "a name twice": (ended(GOOD + GOOD), "stood before"),
    "a key in capitals": (ended(member("A.mp4") + member("A.json", facts())), "KEY.EXTENSION"),
    "a name with two dots": (ended(member("a.b.mp4") + member("a.b.json", facts())), "KEY.EXTENSION"),
    "a name with a prefix": (ended(member("d/" * 60 + "a.mp4") + JSON), "KEY.EXTENSION"),
    "a name with a zero byte": (ended(resigned(b"a.mp4\0b.mp4" + GOOD[11:512]) + GOOD[512:]), "another way|KEY.EXT"),
    "an owner": (ended(member(f"{KEY}.mp4", uid=1000) + JSON), "uid 1000"),
    "a time": (ended(member(f"{KEY}.mp4", mtime=1) + JSON), "mtime 1"),
    "another mode": (ended(member(f"{KEY}.mp4", mode=0o4755) + JSON), "mode"),
    "an owner's name": (ended(member(f"{KEY}.mp4", uname="root") + JSON), "uname 'root'"),
}


def test_the_helpers_of_this_file_make_what_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(ended(GOOD))
    assert [(one.name, one.offset, one.size) for one in read_members(tmp_path / "a.tar")] == [
        (f"{KEY}.mp4", 512, 600),
        (f"{KEY}.json", 2048, len(facts())),
    ]


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_archive_is_refused_though_shards_json_and_tables_fit(made: Made, what: str) -> None:
    data, words = HOSTILE[what]
    name = "clips-000001.tar"
    path = made.folder / name
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=f"at byte [0-9]+: .*({words})") as caught:
        read_members(path)
    assert str(path) in str(caught.value)
    row = replace(
        made.clips[4], shard=name, key=KEY, bytes=600, sha256=hashlib.sha256(b"x" * 600).hexdigest(), offset=512
    )
    made.clips[4:8] = [row]
    made.videos = [video for video in made.videos if video.video_id != "video 1.1"]
    made.videos[2] = replace(made.videos[2], num_clips=1)
    made.shards[1]["num_clips"] = 1
    made.trust(name)
    for quick in (False, True):
        report = verify_shards(made.folder, quick=quick)
        assert name in report.damaged_files, report.lines()
        assert "SHA-256 differs" not in "".join(map(str, report.damage))


def test_a_key_of_another_shard_is_found_though_everything_else_fits(made: Made) -> None:
    key = "000002_000077"
    path = made.folder / "clips-000001.tar"
    with writing_shard(path) as writer:
        row = made.clips[4]
        content = {"video_id": row.video_id, "start_seconds": 0.0, "duration_seconds": 2.5, "num_frames": 25}
        added = writer.add(key, "mp4", b"x" * 600, content)
    made.clips[4:8] = [replace(row, key=key, bytes=600, sha256=added.sha256, offset=added.offset)]
    made.videos = [video for video in made.videos if video.video_id != "video 1.1"]
    made.videos[2] = replace(made.videos[2], num_clips=1)
    made.shards[1]["num_clips"] = 1
    made.trust(path.name)
    assert len(read_members(path)) == 2
    assert {problem.file for problem in verify_shards(made.folder).damage} == {path.name, "clips.parquet"}


@pytest.mark.parametrize("kind", ["fifo", "folder", "link to nothing"])
def test_what_is_no_file_is_neither_waited_for_nor_read(made: Made, kind: str) -> None:
    path = made.folder / "clips-000001.tar"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert verify_shards(made.folder).damaged_files == [path.name]


def test_tarfile_agrees_that_what_is_accepted_is_a_plain_archive(made: Made) -> None:
    for shard in made.shards:
        path = made.folder / shard["name"]
        with tarfile.open(fileobj=io.BytesIO(path.read_bytes())) as tar:
            theirs = [(info.name, info.offset_data, info.size) for info in tar]
        assert [(one.name, one.offset, one.size) for one in read_members(path)] == theirs


def test_headers_are_those_of_tarfile() -> None:
    rng = random.Random(3)
    sizes = [0, 1, 7, 8, 511, 512, (1 << 33) - 1, *(rng.randrange(1 << 33) for _ in range(200))]
    for size in sizes:
        name = "".join(rng.choices("09az_", k=rng.randint(1, 80))) + ".webm"
        assert member_header(name, size) == member(name, size=size)[:512]
    for name, size in (("a" * 101, 0), ("a", 1 << 33)):
        with pytest.raises(ValueError, match="does not fit"):
            member_header(name, size)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_says_what_to_do_and_ends_with_one(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
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
