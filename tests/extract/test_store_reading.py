"""Reading a store: views, many threads, forks, a manifest of many rows, and everything that `problems` finds."""

from __future__ import annotations

import json
import os
import re
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from reelkin.core.errors import Reason, ReelkinError
from reelkin.core.files import publish_json, read_json, sha256_file
from reelkin.extract.storage.rows import SCHEMA, StoreRow, to_table
from reelkin.extract.store import Block, FeatureStore, publish_store, write_block, write_store

INFO = {"encoder": {"name": "test"}, "pca": None, "sampling": {"fps": 1.0}}


def make_store(folder: Path, count: int = 30, dim: int = 16) -> tuple[FeatureStore, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    arrays = {f"v{n:02d}": rng.normal(size=(n % 7 + 1, dim)).astype(np.float16) for n in range(count)}
    pairs = {name: (array, np.arange(len(array)) * 0.5) for name, array in arrays.items()}
    return write_store(folder, pairs, INFO, block_bytes=700), arrays


def test_a_view_is_the_mapped_file_and_cannot_be_written(tmp_path: Path) -> None:
    store, arrays = make_store(tmp_path)
    view = store.features("v05", copy=False)
    np.testing.assert_array_equal(view, arrays["v05"])
    assert not view.flags.owndata and view.base is not None
    with pytest.raises(ValueError, match="read-only"):
        view[0, 0] = 1
    store.features("v05")[:] = 0
    np.testing.assert_array_equal(store.features("v05", copy=False), arrays["v05"])
    assert store.features("v05").flags.owndata and store.features("v05").flags.writeable


@pytest.mark.parametrize(
    "begin,end", [(0, None), (2, None), (1, 4), (-2, None), (0, -1), (4, 2), (3, 99), (0, 0), (9, 9)]
)
def test_parts_are_cut_as_python_cuts(begin: int, end: int | None, tmp_path: Path) -> None:
    store, arrays = make_store(tmp_path)
    for copy in (True, False):
        np.testing.assert_array_equal(store.features("v05", begin, end, copy=copy), arrays["v05"][begin:end])


def test_many_threads_read_the_same_store(tmp_path: Path) -> None:
    make_store(tmp_path)
    store, arrays = FeatureStore.open(tmp_path), make_store(tmp_path / "again")[1]
    wrong: list[str] = []
    gate = threading.Barrier(8)

    def read(seed: int) -> None:
        gate.wait()  # all of them meet an index and mappings that nobody has made yet
        for name in np.random.default_rng(seed).permutation(store.video_ids * 5):
            if not np.array_equal(store.features(name), arrays[name]):
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_fork_reads_on(tmp_path: Path) -> None:
    store, arrays = make_store(tmp_path)
    store.features("v00")  # one mapping is made before the fork, the others after it
    children = []
    for _ in range(3):
        child = os.fork()
        if not child:
            right = all(np.array_equal(store.features(name), array) for name, array in arrays.items())
            os._exit(0 if right else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    np.testing.assert_array_equal(store.features("v29"), arrays["v29"])


def test_blocks_are_readable_with_safetensors_and_aligned(tmp_path: Path) -> None:
    store, arrays = make_store(tmp_path, dim=3)
    for block in store.blocks:
        tensors = safetensors.numpy.load_file(tmp_path / block.name)
        names = [name for name in store.video_ids if store.row(name).block == block.name]
        np.testing.assert_array_equal(tensors["features"], np.concatenate([arrays[name] for name in names]))
        data = (tmp_path / block.name).read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        for name, size in (("offsets", 8), ("times", 8), ("features", 2)):
            assert (8 + int.from_bytes(data[:8], "little") + header[name]["data_offsets"][0]) % size == 0


def test_a_block_is_written_with_the_memory_of_one_video(tmp_path: Path) -> None:
    video = np.random.default_rng(0).normal(size=(1000, 512)).astype(np.float32)  # 2 MB, 1 MB as float16
    tracemalloc.start()
    block = write_block(tmp_path / "features-000000.safetensors", [video] * 64, [np.arange(1000.0)] * 64, 512)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20 < block.bytes
    tracemalloc.stop()
    assert block.sha256 == sha256_file(tmp_path / block.name) and block.bytes == (tmp_path / block.name).stat().st_size


def test_a_manifest_of_many_rows_opens_without_an_object_for_each(tmp_path: Path) -> None:
    count = 200_000
    first = write_block(tmp_path / "features-000000.safetensors", [np.ones((1, 4))] * 1000, [np.zeros(1)] * 1000, 4)
    blocks = []
    for number in range(count // 1000):
        name = f"features-{number:06d}.safetensors"
        if number:
            (tmp_path / name).hardlink_to(tmp_path / first.name)
        blocks.append(Block(name, first.bytes, first.sha256, first.num_videos, first.num_frames))
    constant = {"status": "ok", "reason": "", "detail": "", "num_frames": 1, "duration_seconds": 1.0, "decoder": "pyav"}
    columns = {name: pa.repeat(value, count) for name, value in constant.items()}
    columns["video_id"] = pa.array([f"{number:07d}_a1b2c3d4e5f" for number in range(count)])
    columns["block"] = pa.array(np.repeat([block.name for block in blocks], 1000))
    columns["row"] = pa.array(np.arange(count) % 1000)
    publish_store(tmp_path, 4, {}, blocks, pa.table({name: columns[name] for name in SCHEMA.names}))
    tracemalloc.start()
    store = FeatureStore.open(tmp_path)
    assert store.features("0123456_a1b2c3d4e5f").shape == (1, 4) and len(store) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * 250  # ids, a dict of them, two columns; rows as objects were four times that
    row = store.row("0123456_a1b2c3d4e5f")
    assert row == StoreRow("0123456_a1b2c3d4e5f", "ok", "", "", "features-000123.safetensors", 456, 1, 1.0, "pyav")


def test_members_are_the_videos_of_each_block_by_number(tmp_path: Path) -> None:
    store, _ = make_store(tmp_path)
    for block in store.blocks:
        names = [name for name in store.video_ids if store.row(name).block == block.name]
        assert store.members()[block.name] == {name: number for number, name in enumerate(names)}


def test_two_videos_of_one_id_are_no_store(tmp_path: Path) -> None:
    block = write_block(tmp_path / "features-000000.safetensors", [np.ones((1, 4))] * 2, [np.zeros(1)] * 2, 4)
    rows = [StoreRow("a", block=block.name, row=number, num_frames=1) for number in range(2)]
    with pytest.raises(ValueError, match="bear the same id"):
        publish_store(tmp_path, 4, INFO, [block], rows)
    rejected = StoreRow.rejected("a", Reason.DUPLICATE_ID, "")  # a rejected duplicate may
    publish_store(tmp_path, 4, INFO, [block], [rows[0], StoreRow("b", block=block.name, row=1, num_frames=1), rejected])
    assert FeatureStore.open(tmp_path).video_ids == ["a", "b"]


def rewrite_manifest(folder: Path, change: Callable[[list[StoreRow]], list[StoreRow]]) -> None:
    """Publish other rows, with the hash that store.json asks for."""
    rows = [StoreRow(**row) for row in pq.read_table(folder / "manifest.parquet").to_pylist()]
    pq.write_table(to_table(change(rows)), folder / "manifest.parquet")
    info = read_json(folder / "store.json")
    info["tables"]["manifest.parquet"] = sha256_file(folder / "manifest.parquet")
    publish_json(folder / "store.json", info)


def seal(folder: Path, number: int, tensors: dict[str, np.ndarray]) -> None:
    """Replace a block, with the size and hash that store.json asks for."""
    info = read_json(folder / "store.json")
    block = info["blocks"][number]
    safetensors.numpy.save_file(tensors, folder / block["name"])
    block.update(bytes=(folder / block["name"]).stat().st_size, sha256=sha256_file(folder / block["name"]))
    publish_json(folder / "store.json", info)


def test_problems_finds_what_hashes_cannot_show(tmp_path: Path) -> None:
    def found(folder: Path) -> str:
        store = FeatureStore.open(folder)
        problems = list(store.problems())
        with pytest.raises(ReelkinError):
            store.verify()
        return " | ".join(problems)

    assert list(make_store(tmp_path / "good")[0].problems()) == []
    for number, (change, words) in enumerate(
        (
            (lambda t: t["features"].__setitem__((0, 0), np.nan), "features of 1 frames are not finite"),
            (lambda t: t["times"].__setitem__(slice(None), t["times"][::-1].copy()), "fall within a video"),
            (lambda t: t["times"].__setitem__(0, np.inf), "times are not finite"),
            (lambda t: t["offsets"].__setitem__(1, 99), "offsets do not begin at 0, or fall"),
            (lambda t: t["offsets"].__setitem__(0, 1), "offsets do not begin at 0, or fall"),
            (lambda t: t.update(times=t["times"][:-1].copy()), "features .* times"),
            (lambda t: t.update(features=t["features"].astype(np.float32)), "F32 instead of F16"),
            (lambda t: t.pop("times"), "times"),
        )
    ):
        folder = tmp_path / str(number)
        store, _ = make_store(folder)
        tensors = {k: v.copy() for k, v in safetensors.numpy.load_file(folder / store.blocks[1].name).items()}
        change(tensors)
        seal(folder, 1, tensors)
        assert re.search(words, found(folder)), words
    for name, rows in (
        ("row", lambda rows: [StoreRow(**{**vars(row), "row": row.row + (row.video_id == "v03")}) for row in rows]),
        ("frames", lambda rows: [StoreRow(**{**vars(row), "num_frames": row.num_frames + 1}) for row in rows]),
        ("block", lambda rows: [StoreRow(**{**vars(row), "block": "nowhere"}) for row in rows]),
        ("lost", lambda rows: rows[1:]),
    ):
        make_store(tmp_path / name)
        rewrite_manifest(tmp_path / name, rows)
        assert "manifest.parquet" in found(tmp_path / name)
    with pytest.raises(ReelkinError, match="is said to be number"):
        FeatureStore.open(tmp_path / "block").features("v03")


def test_a_manifest_of_other_columns_is_named(tmp_path: Path) -> None:
    make_store(tmp_path)
    pq.write_table(pa.table({"video_id": ["a"]}), tmp_path / "manifest.parquet")
    info = read_json(tmp_path / "store.json")
    info["tables"]["manifest.parquet"] = sha256_file(tmp_path / "manifest.parquet")
    publish_json(tmp_path / "store.json", info)
    with pytest.raises(ReelkinError, match=r"manifest\.parquet is no manifest of a feature store"):
        FeatureStore.open(tmp_path)
