"""The feature store: frame features of many videos on disk, any video readable without the rest.

A store is a folder:

    features-000000.safetensors   features float16 [frames, dim], times float64 [frames], offsets int64 [videos + 1]
    manifest.parquet              a row per video, rejected ones too (`StoreRow`)
    store.json                    published last: what made the features, and the list of blocks with sizes and hashes

Video number r of a block owns the frames ``offsets[r]:offsets[r + 1]``; ``times`` are seconds from the video's first
picture. Blocks are memory-mapped: opening a store reads the manifest only, reading a video reads its frames only.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..core.errors import DataError, ReelkinError
from ..core.files import publish_json, publish_table, read_json, sha256_file
from .storage.blocks import Block, MappedBlock, check_block, map_block, to_float16, write_block
from .storage.rows import SCHEMA, StoreRow, read_manifest, to_rows, to_table

__all__ = ["Block", "FeatureStore", "StoreRow", "publish_store", "to_float16", "write_block", "write_store"]

log = logging.getLogger("reelkin.extract")

FORMAT, VERSION = "reelkin-features", 1
INFO_KEYS = ("encoder", "pca", "sampling", "decoder", "shards_sha256")
BLOCK_BYTES = 1 << 30
"""`write_store` begins a new block when one would exceed this."""

REMOVING = "store-removing.json"
"""What store.json is called while videos are taken out of the store."""


def publish_store(
    path: str | Path, dim: int, info: Mapping[str, Any], blocks: Sequence[Block], rows: Sequence[StoreRow] | pa.Table
) -> None:
    """Publish manifest.parquet and then store.json over blocks that are already written.

    Args:
        path: the store's folder.
        dim: length of a feature.
        info: the keys of `INFO_KEYS`, and what else is worth recording; JSON values.
        blocks: in store order.
        rows: in any order; the manifest keeps it. A table (`rows.SCHEMA`) does as well.

    Raises:
        ValueError: two videos with features bear one id.
    """
    path = Path(path)
    table = rows.cast(SCHEMA) if isinstance(rows, pa.Table) else to_table(rows)
    accepted = table.column("video_id").filter(pc.equal(table.column("status"), "ok"))
    if pc.count_distinct(accepted).as_py() != len(accepted):
        raise ValueError("two videos of a store bear the same id")
    publish_table(path / "manifest.parquet", table)
    index = {"format": FORMAT, "version": VERSION, "dim": dim, **{key: info.get(key) for key in INFO_KEYS}, **info}
    index["tables"] = {"manifest.parquet": sha256_file(path / "manifest.parquet")}
    index["blocks"] = [asdict(block) for block in blocks]
    publish_json(path / "store.json", index)


def write_store(
    path: str | Path,
    videos: Mapping[str, tuple[np.ndarray, np.ndarray]] | Iterable[tuple[str, tuple[np.ndarray, np.ndarray]]],
    info: Mapping[str, Any],
    *,
    rejects: Sequence[StoreRow] = (),
    block_bytes: int = BLOCK_BYTES,
) -> FeatureStore:
    """Write a whole store in one call (importers, tests).

    Args:
        path: folder; an older store there is replaced.
        videos: ``{video_id: (features real [T, dim], times float64 [T])}``, or pairs one by one to save memory.
        info: see `publish_store`; may be empty.
        rejects: rows of videos without features. A video whose features are not finite joins them.
        block_bytes: size at which a new block begins.

    Returns:
        The opened store.

    Raises:
        ValueError: no video, or features of different dimensions.
    """
    path = Path(path)
    (path / "store.json").unlink(missing_ok=True)
    rows: list[StoreRow] = list(rejects)
    blocks: list[Block] = []
    pending: list[tuple[str, np.ndarray, np.ndarray]] = []
    dim = held = 0

    def flush() -> None:
        name = f"features-{len(blocks):06d}.safetensors"
        blocks.append(write_block(path / name, [item[1] for item in pending], [item[2] for item in pending], dim))
        for number, (video_id, matrix, times) in enumerate(pending):
            rows.append(StoreRow(video_id, block=name, row=number, num_frames=len(matrix), duration_seconds=times[-1]))
        pending.clear()

    for video_id, (features, times) in videos.items() if isinstance(videos, Mapping) else videos:
        if dim and features.shape[1] != dim:
            raise ValueError(f"{video_id!r} has {features.shape[1]} dimensions, the videos before it {dim}")
        dim = features.shape[1]
        try:
            stored = to_float16(np.asarray(features))
        except DataError as error:
            log.warning("%s is rejected: %s", video_id, error)
            rows.append(StoreRow.rejected(video_id, error.reason, str(error)))
            continue
        if pending and held + stored.nbytes > block_bytes:
            flush()
            held = 0
        pending.append((video_id, stored, np.asarray(times, np.float64)))
        held += stored.nbytes
    if not dim:
        raise ValueError("a store needs at least one video with features")
    flush()
    publish_store(path, dim, info, blocks, rows)
    return FeatureStore.open(path)


class FeatureStore:
    """An opened store. Reading is thread-safe and survives a fork: nothing is held open but the mappings.

    Attributes:
        path: its folder.
        info: store.json.
        dim: length of a feature.
        manifest: all rows (columns of `rows.SCHEMA`).
        video_ids: videos with features, in store order.
    """

    def __init__(self, path: Path, info: dict[str, Any], manifest: pa.Table) -> None:
        self.path = path
        self.info = info
        self.dim: int = info["dim"]
        self.manifest = manifest
        accepted = pc.equal(manifest.column("status"), "ok")
        self._accepted = manifest if pc.all(accepted).as_py() else manifest.filter(accepted).combine_chunks()
        self.video_ids: list[str] = self._accepted.column("video_id").to_numpy().tolist()
        self._maps: dict[int, MappedBlock] = {}

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store and check it against store.json: format, the manifest's hash, every block's size.

        Raises:
            ReelkinError: what is missing, cut or of another version, and what to do.
        """
        path = Path(path)
        info = read_info(path)
        for block in info["blocks"]:
            file = path / block["name"]
            size = file.stat().st_size if file.exists() else None
            if size != block["bytes"]:
                state = "is missing" if size is None else f"has {size} bytes instead of {block['bytes']}"
                raise ReelkinError(
                    f"{file} {state}; copy it again, or remove store.json and run the command that made it again"
                )
        manifest = path / "manifest.parquet"
        if not manifest.exists() or sha256_file(manifest) != info["tables"]["manifest.parquet"]:
            raise ReelkinError(f"{manifest} is missing or not the one store.json was written for; copy the store again")
        return cls(path, info, read_manifest(manifest))

    @cached_property
    def rejects(self) -> list[StoreRow]:
        """Rows of the videos without features."""
        return to_rows(self.manifest.filter(pc.not_equal(self.manifest.column("status"), "ok")))

    # A million videos: columns are kept as arrays, and a row becomes an object when somebody asks for it.

    @cached_property
    def _number_of(self) -> dict[str, int]:
        return dict(zip(self.video_ids, range(len(self.video_ids)), strict=True))

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every video: its block's number in store.json, and its number in the block."""
        names = pa.array([block["name"] for block in self.info["blocks"]], pa.string())
        column = self._accepted.column("block").cast(pa.dictionary(pa.int32(), pa.string())).combine_chunks()
        if not len(column):
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        number_of = pc.index_in(column.dictionary, names).fill_null(-1).to_numpy()
        return number_of[column.indices.to_numpy()], self._accepted.column("row").to_numpy()

    @cached_property
    def _num_frames(self) -> np.ndarray:
        frames: np.ndarray = self._accepted.column("num_frames").to_numpy()
        return frames

    @cached_property
    def _columns(self) -> list[tuple[list[Any], np.ndarray]]:
        """Of every column of the manifest: its different values, and which of them each video has."""
        columns = []
        for column in self._accepted.columns:
            encoded = column.combine_chunks()
            encoded = encoded if pa.types.is_dictionary(encoded.type) else encoded.dictionary_encode()
            columns.append((encoded.dictionary.to_pylist(), encoded.indices.to_numpy()))
        return columns

    def __len__(self) -> int:
        return self._accepted.num_rows

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._number_of

    def __iter__(self) -> Iterator[str]:
        return iter(self.video_ids)

    def __repr__(self) -> str:
        name = (self.info.get("encoder") or {}).get("name", "?")
        counts = f"{len(self)} videos, {self.manifest.num_rows - len(self)} rejected"
        return f"FeatureStore({str(self.path)!r}: {counts}, D = {self.dim}, {name})"

    def row(self, video_id: str) -> StoreRow:
        """The manifest row of a video with features. Raises KeyError for other ids."""
        number = self._number(video_id)
        return StoreRow(*(values[codes.item(number)] for values, codes in self._columns))

    def members(self) -> dict[str, dict[str, int]]:
        """By name of a block, in the order of store.json: its videos, each with its number there, by number."""
        blocks, rows = self._places
        found: dict[str, dict[str, int]] = {block.name: {} for block in self.blocks}
        names = list(found)
        for video in np.lexsort((rows, blocks)).tolist():
            found[names[blocks.item(video)]][self.video_ids[video]] = rows.item(video)
        return found

    def digest(self) -> str:
        """sha256 (hex) of what the features are: dimension and the blocks' hashes."""
        content = [self.dim, [block["sha256"] for block in self.info["blocks"]]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def num_frames(self, video_id: str) -> int:
        """Number of frames, from the manifest alone."""
        return int(self._num_frames[self._number(video_id)])

    def features(self, video_id: str, begin: int = 0, end: int | None = None, *, copy: bool = True) -> np.ndarray:
        """float16 [T, dim] of a video, or of its frames ``begin:end``.

        Args:
            copy: False gives a read-only view of the mapped file, which is read from the disk when it is touched. It
                stays valid as long as the store is open.
        """
        block, first, last = self._locate(video_id)
        if begin or end is not None:
            begin, end, _ = slice(begin, end).indices(last - first)
            first, last = first + begin, first + max(begin, end)
        found = block.features[first:last]
        return found.copy() if copy else found

    def times(self, video_id: str) -> np.ndarray:
        """float64 [T] seconds from the video's first picture."""
        block, first, last = self._locate(video_id)
        return block.times[first:last].copy()

    def problems(self) -> Iterator[str]:
        """Read everything, block by block; yields a sentence for each thing that is not as it was written."""
        counts = pc.value_counts(self._accepted.column("block")).to_pylist()
        listed = {item["values"]: item["counts"] for item in counts}
        for number, block in enumerate(self.blocks):
            found = check_block(self.path / block.name, block, self.dim)
            yield from found
            if not found:
                yield from self._misplaced(number, listed.get(block.name, 0))
        unknown = listed.keys() - {block.name for block in self.blocks}
        yield from (f"manifest.parquet names the block {name!r}, which store.json does not list" for name in unknown)

    def _misplaced(self, number: int, listed: int) -> Iterator[str]:
        block = self._map(number)
        blocks, rows = self._places
        here = np.flatnonzero(blocks == number)
        if listed != block.num_videos or sorted(rows[here].tolist()) != list(range(block.num_videos)):
            yield (
                f"{self.blocks[number].name} holds {block.num_videos} videos, and manifest.parquet names {listed} in "
                "it, or other numbers than 0 and up"
            )
        elif (np.diff(block.offsets)[rows[here]] != self._num_frames[here]).any():
            yield f"{self.blocks[number].name} and manifest.parquet disagree on numbers of frames"

    def verify(self) -> None:
        """Read everything and compare. Raises ReelkinError with the first of `problems`."""
        for problem in self.problems():
            raise ReelkinError(
                f"{problem}; copy the store again, or remove that file and store.json and run the command that made it"
            )

    @cached_property
    def blocks(self) -> list[Block]:
        """The blocks, as store.json lists them."""
        return [Block(**block) for block in self.info["blocks"]]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # mappings are opened anew in the receiving process

    def _number(self, video_id: str) -> int:
        try:
            return self._number_of[video_id]
        except KeyError:
            raise KeyError(f"{video_id!r} has no features in {self.path}") from None

    def _map(self, number: int) -> MappedBlock:
        if number not in self._maps:
            self._maps[number] = map_block(self.path / self.blocks[number].name, self.dim)
        return self._maps[number]

    def _locate(self, video_id: str) -> tuple[MappedBlock, int, int]:
        video = self._number(video_id)
        blocks, rows = self._places
        number, row = blocks.item(video), rows.item(video)
        block = self._maps.get(number) or self._map(number)
        if number < 0 or not 0 <= row < block.num_videos:
            raise ReelkinError(f"{self.path}: {video_id!r} is said to be number {row} of a block that has no such")
        return block, block.offsets.item(row), block.offsets.item(row + 1)


def read_info(path: Path) -> dict[str, Any]:
    """The content of a store's store.json.

    Raises:
        ReelkinError: the folder holds no finished store, or one of another version.
    """
    if not (path / "store.json").exists():
        if (path / REMOVING).exists():
            raise ReelkinError(
                f"videos were being taken out of {path} when that was stopped; run extract/remove.py --features {path} "
                "to finish it"
            )
        raise ReelkinError(
            f"{path} is no finished feature store (no store.json); run extract/run.py --output {path} (or the command "
            "that was making it) to make or finish it"
        )
    info = read_json(path / "store.json")
    if not isinstance(info, dict) or (info.get("format"), info.get("version")) != (FORMAT, VERSION):
        found = f"{info.get('format')} {info.get('version')}" if isinstance(info, dict) else type(info).__name__
        raise ReelkinError(f"{path}/store.json is {found!r}; expected {FORMAT} {VERSION}: extract again")
    return info
