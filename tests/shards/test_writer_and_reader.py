"""Shards as files: read by other programs, the same bytes every time, and never trusted when changed."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
import webdataset

from reelkin.core.errors import DataError, Reason, ReelkinError
from reelkin.shards import writer as writer_module
from reelkin.shards.archive import structure_sha256
from reelkin.shards.manifest import ClipRow, VideoRow, from_table
from reelkin.shards.packing.building import build
from reelkin.shards.packing.config import BuildConfig
from reelkin.shards.reader import ShardSet
from reelkin.shards.writer import writing_shard


@pytest.fixture(scope="module")
def built(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of the made videos, five a shard; treat as read-only."""
    output = tmp_path_factory.mktemp("built") / "shards"
    build(BuildConfig(videos=(made,), output=output, shard_videos=5, workers=2))
    return output


def test_other_programs_read_the_same_clips_in_the_same_order(made: Path, built: Path) -> None:
    shards = ShardSet.open(built)
    ours = [(name, clip) for name in shards.shard_names for clip in shards.read_clips(name)]
    assert len(ours) == len(list(made.iterdir())) == shards.num_clips
    members = []
    for name in shards.shard_names:
        with tarfile.open(built / name) as tar:
            members += [(name, info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    expected = []
    for name, clip in ours:
        expected.append((name, f"{clip.key}.{clip.container}", clip.data))
        expected.append((name, f"{clip.key}.json", json.dumps(clip.meta).encode()))
    assert members == expected
    pipeline = webdataset.WebDataset([str(built / name) for name in shards.shard_names], shardshuffle=False)
    samples = list(pipeline)
    assert [sample["__key__"] for sample in samples] == [clip.key for _, clip in ours]
    for sample, (_, clip) in zip(samples, ours, strict=True):
        assert sample[clip.container] == clip.data and json.loads(sample["json"]) == clip.meta


def test_members_are_the_original_files(made: Path, built: Path) -> None:
    shards = ShardSet.open(built)
    for row in shards.videos:
        (clip,) = shards.read_clip(row.video_id)
        assert clip.data == (made / row.path).read_bytes()
        assert row.sha256 == hashlib.sha256(clip.data).hexdigest() == clip.meta["sha256"]
        assert (clip.meta["video_id"], clip.meta["path"], clip.meta["bytes"]) == (row.video_id, row.path, row.bytes)
    with pytest.raises(KeyError):
        shards.read_clip("nobody")


def test_archives_hold_nothing_about_the_machine(built: Path) -> None:
    for name in ShardSet.open(built).shard_names:
        with tarfile.open(built / name) as tar:
            assert not tar.pax_headers
            for info in tar.getmembers():
                assert (info.mtime, info.uid, info.gid, info.uname, info.gname, info.mode) == (0, 0, 0, "", "", 0o644)
                assert info.isreg() and len(info.name) < 90
    text = (built / "shards.json").read_text() + (built / "records" / "000000.json").read_text()
    assert str(built.parent) not in text and "/tmp" not in text


def test_a_shard_is_what_tarfile_would_write(tmp_path: Path) -> None:
    with writing_shard(tmp_path / "a.tar") as writer:
        members = [writer.add(f"k_{n}", "mp4", bytes([n]) * size, {"n": n}) for n, size in enumerate((1, 512, 1000))]
    reference = io.BytesIO()
    with tarfile.open(fileobj=reference, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for n, size in enumerate((1, 512, 1000)):
            data = bytes([n]) * size
            meta = json.dumps({"n": n, "bytes": size, "sha256": hashlib.sha256(data).hexdigest()}).encode()
            for name, content in ((f"k_{n}.mp4", data), (f"k_{n}.json", meta)):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    assert (tmp_path / "a.tar").read_bytes() == reference.getvalue()
    structure = bytearray(reference.getvalue())
    for member in reversed(members):
        del structure[member.offset : member.offset + member.bytes]
    assert writer.bytes == len(reference.getvalue())
    assert writer.structure_sha256 == hashlib.sha256(structure).hexdigest() == structure_sha256(tmp_path / "a.tar")
    assert reference.getvalue()[members[1].offset : members[1].offset + 512] == b"\1" * 512


def test_a_failing_member_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "shrinking.mp4"
    source.write_bytes(b"x" * 3000)

    def opened_too_early(path: Path):  # type: ignore[no-untyped-def]
        return io.BytesIO(b"x" * 1000), 3000  # the file lost its tail after its size was taken

    with writing_shard(tmp_path / "a.tar") as writer:
        writer.add("k_0", "mp4", b"first", {})
        with monkeypatch.context() as patched:
            patched.setattr(writer_module, "open_bytes", opened_too_early)
            with pytest.raises(DataError) as caught:
                writer.add("k_1", "mp4", source, {})
        assert caught.value.reason is Reason.UNREADABLE
        with pytest.raises(DataError):
            writer.add("k_1", "mp4", tmp_path / "gone.mp4", {})
        writer.add("k_1", "mp4", b"second", {})
    with writing_shard(tmp_path / "b.tar") as reference:
        reference.add("k_0", "mp4", b"first", {})
        reference.add("k_1", "mp4", b"second", {})
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    assert writer.structure_sha256 == reference.structure_sha256 == structure_sha256(tmp_path / "a.tar")


def test_a_member_of_eight_gib_is_too_large(tmp_path: Path) -> None:
    huge = tmp_path / "huge.mp4"
    with huge.open("wb") as file:
        file.truncate(1 << 33)  # takes no room on the disk
    with writing_shard(tmp_path / "a.tar") as writer, pytest.raises(DataError) as caught:
        writer.add("k", "mp4", huge, {})
    assert caught.value.reason is Reason.TOO_LARGE
    assert not (tmp_path / "a.tar").exists()


def test_an_error_inside_or_no_clip_publishes_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), writing_shard(tmp_path / "a.tar") as writer:
        writer.add("k", "mp4", b"x", {})
        raise RuntimeError
    with writing_shard(tmp_path / "b.tar"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("key", "container"), [("A", "mp4"), ("a.b", "mp4"), ("", "mp4"), ("a" * 81, "mp4"), ("a", "MP4"), ("a", "json")]
)
def test_keys_that_readers_would_split_are_refused(tmp_path: Path, key: str, container: str) -> None:
    with writing_shard(tmp_path / "a.tar") as writer:
        with pytest.raises(ValueError, match="use 1 to"):
            writer.add(key, container, b"x", {})
        writer.add("twice", "mp4", b"x", {})
        with pytest.raises(ValueError, match="once"):
            writer.add("twice", "mp4", b"x", {})


def test_rows_survive_the_way_through_a_table() -> None:
    rows = [VideoRow("日本 'x'", "ok", num_frames=3, fps=29.97), VideoRow("b", "rejected", "truncated", "a sentence")]
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=VideoRow.SCHEMA)
    assert from_table(table, VideoRow) == rows
    with pytest.raises(ReelkinError, match="lacks the columns shard"):
        from_table(table, ClipRow)


def copy_of(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.mark.parametrize("keep", [0, 512, 1024, 5000, -10240, -512, -1])
def test_a_cut_shard_is_found_when_opening(built: Path, tmp_path: Path, keep: int) -> None:
    folder = copy_of(built, tmp_path)
    shard = folder / "clips-000001.tar"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(ReelkinError, match=r"clips-000001\.tar has .* bytes instead of .*shards/build\.py"):
        ShardSet.open(folder)


def test_a_missing_shard_table_or_index_is_found_when_opening(built: Path, tmp_path: Path) -> None:
    for name, words in (
        ("clips-000000.tar", "is missing"),
        ("manifest.parquet", "is missing"),
        ("clips.parquet", "is missing"),
        ("shards.json", "no finished shards"),
    ):
        folder = copy_of(built, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(ReelkinError, match=words):
            ShardSet.open(folder)


def test_a_changed_table_or_version_is_found_when_opening(built: Path, tmp_path: Path) -> None:
    folder = copy_of(built, tmp_path)
    index = (folder / "shards.json").read_text()
    (folder / "shards.json").write_text(index.replace('"version": 1', '"version": 9'))
    with pytest.raises(ReelkinError, match="has version 9, this program reads 1"):
        ShardSet.open(folder)
    (folder / "shards.json").write_text("{}")
    with pytest.raises(ReelkinError, match="does not describe shards"):
        ShardSet.open(folder)
    (folder / "shards.json").write_text(index)
    data = bytearray((folder / "clips.parquet").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "clips.parquet").write_bytes(data)
    with pytest.raises(ReelkinError, match=r"clips\.parquet is missing or not the table"):
        ShardSet.open(folder)


def test_every_flipped_byte_is_found_by_verify_and_in_a_clip_by_reading(built: Path, tmp_path: Path) -> None:
    folder = copy_of(built, tmp_path)
    shard = folder / "clips-000000.tar"
    data = shard.read_bytes()
    shards = ShardSet.open(folder)
    shards.verify()
    row = shards.clips_of("clips-000000.tar")[2]
    for position in (0, row.offset - 500, row.offset, row.offset + row.bytes - 1, len(data) - 1):
        shard.write_bytes(data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :])
        with pytest.raises(ReelkinError, match=r"damaged clips-000000\.tar"):
            ShardSet.open(folder).verify()
        if row.offset - 512 <= position < row.offset + row.bytes:
            with pytest.raises(ReelkinError, match=row.key):
                list(ShardSet.open(folder).read_clips("clips-000000.tar"))


def test_an_unknown_shard_is_named(built: Path) -> None:
    with pytest.raises(ReelkinError, match="no shard 'clips-999999"):
        ShardSet.open(built).clips_of("clips-999999.tar")
