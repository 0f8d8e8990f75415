"""The feature store: frame features of many videos on disk, any video readable without the rest.

A store is a folder:

    features-000000.safetensors   features float16 [frames, dim], times float64 [frames], offsets int64 [videos + 1]
    manifest.parquet              a row per video, rejected ones too (`ROW_FIELDS`)
    store.json                    published last: what made the features, and the list of blocks with sizes and hashes

Video number r of a block owns the frames ``offsets[r]:offsets[r + 1]``; ``times`` are seconds from the video's first
picture. Blocks are memory-mapped: opening a store reads the manifest only, reading a video reads its frames only.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import safetensors.numpy

from ..core.errors import DataError, Reason, ReelkinError
from ..core.files import publish_json, publish_table, publishing, read_json, read_table, sha256_file

log = logging.getLogger("reelkin.extract")

FORMAT, VERSION = "reelkin-features", 1
INFO_KEYS = ("encoder", "pca", "sampling", "decoder", "shards_sha256")
BLOCK_BYTES = 1 << 30
"""`write_store` begins a new block when one would exceed this."""


@dataclass(frozen=True)
class StoreRow:
    """A video in manifest.parquet.

    Attributes:
        video_id: unique in the store.
        status: "ok" or "rejected".
        reason, detail: why it was rejected (`core.errors.Reason`) and the sentence; empty when ok.
        block, row: the block's file name and the video's number in it; "" and -1 when rejected.
        num_frames: frames described, 0 when rejected.
        duration_seconds: of the video, as far as known.
        decoder: what made its frames ("pyav").
    """

    video_id: str
    status: str = "ok"
    reason: str = ""
    detail: str = ""
    block: str = ""
    row: int = -1
    num_frames: int = 0
    duration_seconds: float = 0.0
    decoder: str = ""

    @classmethod
    def rejected(cls, video_id: str, reason: str, detail: str, duration_seconds: float = 0.0) -> StoreRow:
        """The row of a video without features."""
        return cls(video_id, "rejected", str(reason), detail, duration_seconds=duration_seconds)


ROW_FIELDS = tuple(field.name for field in fields(StoreRow))
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ROW_FIELDS[:5]]
    + [("row", pa.int64()), ("num_frames", pa.int64()), ("duration_seconds", pa.float64()), ("decoder", pa.string())]
)


@dataclass(frozen=True)
class Block:
    """A block in store.json: its file name, size in bytes, SHA-256 and counts."""

    name: str
    bytes: int
    sha256: str
    num_videos: int
    num_frames: int


def to_float16(features: np.ndarray) -> np.ndarray:
    """Features as they are stored.

    Args:
        features: real [T, D].

    Returns:
        float16 [T, D].

    Raises:
        DataError: ENCODER_FAILED when a value is not finite, or too large for float16 (over 65504).
    """
    if not np.isfinite(features).all():
        raise DataError(Reason.ENCODER_FAILED, f"the features of {_count_bad(features)} frames are not finite")
    with np.errstate(over="ignore"):
        stored = features.astype(np.float16)
    if not np.isfinite(stored).all():
        raise DataError(
            Reason.ENCODER_FAILED,
            f"{_count_bad(stored)} frames' features exceed the float16 range (largest {np.abs(features).max():.4g})",
        )
    return stored


def _count_bad(features: np.ndarray) -> str:
    return f"{int((~np.isfinite(features)).any(axis=1).sum())} of {len(features)}"


def write_block(path: str | Path, features: Sequence[np.ndarray], times: Sequence[np.ndarray], dim: int) -> Block:
    """Publish the features of some videos as one block.

    Args:
        path: file to write, in the store's folder.
        features: per video float16 or float32 [T_i, dim], finite (see `to_float16`).
        times: per video float64 [T_i] seconds, not falling.
        dim: for a block without videos.

    Raises:
        DataError: ENCODER_FAILED, as `to_float16`.
        ValueError: shapes do not match.
    """
    path = Path(path)
    for matrix, seconds in zip(features, times, strict=True):
        if matrix.ndim != 2 or matrix.shape[1] != dim or seconds.shape != (len(matrix),):
            raise ValueError(f"features {matrix.shape} and times {seconds.shape}; expected [T, {dim}] and [T]")
        if len(matrix) == 0:
            raise ValueError("a video without frames belongs into the manifest as rejected, not into a block")
        if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
            raise ValueError("times must be finite and must not fall")
    offsets = np.cumsum([0, *(len(matrix) for matrix in features)], dtype=np.int64)
    tensors = {
        "features": np.concatenate([np.zeros((0, dim), np.float16), *(to_float16(matrix) for matrix in features)]),
        "times": np.concatenate([np.zeros(0), *times]).astype(np.float64),
        "offsets": offsets,
    }
    with publishing(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)
        size, digest = temporary.stat().st_size, sha256_file(temporary)
    return Block(path.name, size, digest, len(features), int(offsets[-1]))


def publish_store(
    path: str | Path, dim: int, info: Mapping[str, Any], blocks: Sequence[Block], rows: Sequence[StoreRow]
) -> None:
    """Publish manifest.parquet and then store.json over blocks that are already written.

    Args:
        path: the store's folder.
        dim: length of a feature.
        info: the keys of `INFO_KEYS`, and what else is worth recording; JSON values.
        blocks: in store order.
        rows: in any order; the manifest keeps it.
    """
    path = Path(path)
    columns = {name: [getattr(row, name) for row in rows] for name in ROW_FIELDS}
    publish_table(path / "manifest.parquet", pa.table(columns, schema=_SCHEMA))
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
        video_ids: videos with features, in store order.
        rejects: rows of the others.
    """

    def __init__(self, path: Path, info: dict[str, Any], rows: Sequence[StoreRow]) -> None:
        self.path = path
        self.info = info
        self.dim: int = info["dim"]
        self.rejects = [row for row in rows if row.status != "ok"]
        self._rows = {row.video_id: row for row in rows if row.status == "ok"}
        self.video_ids = list(self._rows)
        self._blocks = {block["name"]: Block(**block) for block in info["blocks"]}
        self._maps: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open a store and check it against store.json: format, the manifest's hash, every block's size.

        Raises:
            ReelkinError: what is missing, cut or of another version, and what to do.
        """
        path = Path(path)
        if not (path / "store.json").exists():
            raise ReelkinError(
                f"{path} is no finished feature store (no store.json); run extract/run.py --output {path} to make or "
                "finish it"
            )
        info = read_json(path / "store.json")
        if not isinstance(info, dict) or (info.get("format"), info.get("version")) != (FORMAT, VERSION):
            found = f"{info.get('format')} {info.get('version')}" if isinstance(info, dict) else type(info).__name__
            raise ReelkinError(f"{path}/store.json is {found!r}; expected {FORMAT} {VERSION}: extract again")
        for block in info["blocks"]:
            file = path / block["name"]
            size = file.stat().st_size if file.exists() else None
            if size != block["bytes"]:
                state = "is missing" if size is None else f"has {size} bytes instead of {block['bytes']}"
                raise ReelkinError(f"{file} {state}; copy it again, or remove store.json and run extract/run.py again")
        manifest = path / "manifest.parquet"
        if not manifest.exists() or sha256_file(manifest) != info["tables"]["manifest.parquet"]:
            raise ReelkinError(f"{manifest} is missing or not the one store.json was written for; copy the store again")
        return cls(path, info, [StoreRow(**row) for row in read_table(manifest).select(ROW_FIELDS).to_pylist()])

    def __len__(self) -> int:
        return len(self.video_ids)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self.video_ids)

    def __repr__(self) -> str:
        name = (self.info.get("encoder") or {}).get("name", "?")
        counts = f"{len(self)} videos, {len(self.rejects)} rejected"
        return f"FeatureStore({str(self.path)!r}: {counts}, D = {self.dim}, {name})"

    def row(self, video_id: str) -> StoreRow:
        """The manifest row of a video with features. Raises KeyError for other ids."""
        try:
            return self._rows[video_id]
        except KeyError:
            raise KeyError(f"{video_id!r} has no features in {self.path}") from None

    def num_frames(self, video_id: str) -> int:
        """Number of frames, from the manifest alone."""
        return self.row(video_id).num_frames

    def features(self, video_id: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """float16 [T, dim] of a video, or of its frames ``begin:end``; a copy of just these rows."""
        features, _, first, last = self._locate(video_id)
        return np.array(features[first:last][begin:end])

    def times(self, video_id: str) -> np.ndarray:
        """float64 [T] seconds from the video's first picture."""
        _, times, first, last = self._locate(video_id)
        return np.array(times[first:last])

    def verify(self) -> None:
        """Read every block and compare its hash. Raises ReelkinError with the first block that differs."""
        for block in self._blocks.values():
            if sha256_file(self.path / block.name) != block.sha256:
                raise ReelkinError(
                    f"{self.path / block.name} has changed since it was written; copy it again, or remove it and "
                    "store.json and run extract/run.py again"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}  # mappings are opened anew in the receiving process

    def _locate(self, video_id: str) -> tuple[np.ndarray, np.ndarray, int, int]:
        row = self.row(video_id)
        if row.block not in self._maps:
            self._maps[row.block] = _map_block(self.path / row.block, self.dim)
        features, times, offsets = self._maps[row.block]
        if not 0 <= row.row < len(offsets) - 1:
            raise ReelkinError(f"{self.path / row.block} holds no video number {row.row}; extract the features again")
        return features, times, int(offsets[row.row]), int(offsets[row.row + 1])


_DTYPES = {"F16": np.float16, "F64": np.float64, "I64": np.int64}


def _map_block(path: Path, dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # safetensors' own reader gives copies, or keeps a handle that does not survive pickling; the layout is simple: a
    # little-endian length, a JSON header with byte ranges, the data.
    data = np.memmap(path, np.uint8, "r")
    try:
        begin = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:begin]))
        arrays = []
        for name, dtype in (("features", "F16"), ("times", "F64"), ("offsets", "I64")):
            entry = header[name]
            if entry["dtype"] != dtype:
                raise ValueError(f"{name} is {entry['dtype']} instead of {dtype}")
            first, last = entry["data_offsets"]
            arrays.append(np.ndarray(entry["shape"], _DTYPES[dtype], data, begin + first))
        features, times, offsets = arrays
        if features.shape[1] != dim or len(features) != len(times) or offsets[-1] != len(features):
            raise ValueError(f"features {features.shape}, times {times.shape}, last offset {offsets[-1]}")
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ReelkinError(f"{path} is no block of a feature store ({error}); extract the features again") from error
    return features, times, np.array(offsets)
