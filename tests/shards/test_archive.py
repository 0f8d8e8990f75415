"""The strict reader of a shard's tar: what the writer writes passes, and nothing else does."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reelkin.shards.archive import ArchiveError, member_header, read_members
from reelkin.shards.verification import verify_shards
from reelkin.shards.writer import writing_shard
from reelkin.tests.helpers.shard_sets import ShardSetMaker


@pytest.fixture
def made(tmp_path: Path) -> ShardSetMaker:
    (tmp_path / "set").mkdir()
    return ShardSetMaker(tmp_path / "set")


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
def test_a_hostile_archive_is_refused_though_shards_json_and_tables_fit(made: ShardSetMaker, what: str) -> None:
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
        assert "structure differs" not in "".join(map(str, report.damage))


def test_a_key_of_another_shard_is_found_though_everything_else_fits(made: ShardSetMaker) -> None:
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
def test_what_is_no_file_is_neither_waited_for_nor_read(made: ShardSetMaker, kind: str) -> None:
    path = made.folder / "clips-000001.tar"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere")
    assert verify_shards(made.folder).damaged_files == [path.name]


def test_tarfile_agrees_that_what_is_accepted_is_a_plain_archive(made: ShardSetMaker) -> None:
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
