"""Blocks of a feature store: one file with the features of many videos, written as a stream and read by mapping it.

A block is a safetensors file of three tensors: ``features`` float16 [frames, dim], ``times`` float64 [frames] and
``offsets`` int64 [videos + 1]. It is written video by video, so that a block of any size costs the memory of one video,
and hashed on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError
from ...core.files import publishing

_DTYPES: dict[str, np.dtype] = {"F16": np.dtype("<f2"), "F64": np.dtype("<f8"), "I64": np.dtype("<i8")}
_TENSORS = {"features": "F16", "offsets": "I64", "times": "F64"}


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
        float16 [T, D]; the same array when it is float16 already.

    Raises:
        DataError: ENCODER_FAILED when a value is not finite, or too large for float16 (over 65504).
    """
    if not np.isfinite(features).all():
        raise DataError(Reason.ENCODER_FAILED, f"the features of {_count_bad(features)} frames are not finite")
    if features.dtype == np.float16:
        return features
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
        features: per video float16 or float32 [T_i, dim], finite (see `to_float16`). Views into a mapped block do: they
            are read when their turn comes.
        times: per video float64 [T_i] seconds, not falling.
        dim: for a block without videos.

    Raises:
        DataError: ENCODER_FAILED, as `to_float16`.
        ValueError: shapes do not match.
        ReelkinError: the disk is full; nothing is published.
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
    total = int(offsets[-1])
    digest = hashlib.sha256()
    size = 0
    with publishing(path) as temporary, open(temporary, "wb") as file:
        for data in _parts(features, times, offsets, dim):
            file.write(data)
            digest.update(data)
            size += len(data)
    return Block(path.name, size, digest.hexdigest(), len(features), total)


def _parts(
    features: Sequence[np.ndarray], times: Sequence[np.ndarray], offsets: np.ndarray, dim: int
) -> Iterator[bytes | memoryview]:
    """The bytes of a block, in order. The eight-byte tensors first: then all of them are aligned."""
    total = int(offsets[-1])
    yield _header({"offsets": (len(offsets),), "times": (total,), "features": (total, dim)})
    yield offsets.tobytes()
    for seconds in times:
        yield seconds.astype("<f8").tobytes()
    for matrix in features:
        yield np.ascontiguousarray(to_float16(matrix)).reshape(-1).view(np.uint8).data


def _header(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """The safetensors header of tensors that follow one another in this order."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        kind = _TENSORS[name]
        begin, end = end, end + int(np.prod(shape)) * _DTYPES[kind].itemsize
        entries[name] = {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@dataclass(frozen=True, eq=False)
class MappedBlock:
    """A block's arrays, read from the disk when they are touched; read-only.

    Attributes:
        features: float16 [frames, dim].
        times: float64 [frames] seconds.
        offsets: int64 [videos + 1]; in memory.
    """

    features: np.ndarray
    times: np.ndarray
    offsets: np.ndarray

    @property
    def num_videos(self) -> int:
        """Videos in the block."""
        return len(self.offsets) - 1

    def videos(self, numbers: Iterable[int]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Views of the features and times of some videos, by their number in the block: what `write_block` takes."""
        ranges = [slice(int(self.offsets[number]), int(self.offsets[number + 1])) for number in numbers]
        return [self.features[each] for each in ranges], [self.times[each] for each in ranges]


def map_block(path: Path, dim: int) -> MappedBlock:
    """Map a block. Nothing stays open but the mapping, so it survives a fork.

    Raises:
        ReelkinError: the file is no block of a store of this dimension.
    """
    # safetensors' own reader gives copies, or keeps a handle that does not survive pickling; the layout is simple: a
    # little-endian length, a JSON header with byte ranges, the data.
    try:
        data = np.memmap(path, np.uint8, "r")
        begin = 8 + int(data[:8].view("<u8")[0])
        header = json.loads(bytes(data[8:begin]))
        arrays = {}
        for name, kind in _TENSORS.items():
            entry = header[name]
            if entry["dtype"] != kind:
                raise ValueError(f"{name} is {entry['dtype']} instead of {kind}")
            arrays[name] = np.ndarray(entry["shape"], _DTYPES[kind], data, begin + entry["data_offsets"][0])
        block = MappedBlock(arrays["features"], arrays["times"], np.array(arrays["offsets"]))
        features, offsets = block.features, block.offsets
        if features.shape[1] != dim or len(features) != len(block.times) or offsets[-1] != len(features):
            raise ValueError(f"features {features.shape}, times {block.times.shape}, last offset {offsets[-1]}")
        if offsets[0] != 0 or (np.diff(offsets) < 0).any():
            raise ValueError("the offsets do not begin at 0, or fall")
    except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise ReelkinError(
            f"{path} is no block of a feature store of dimension {dim} ({error}); copy it again, or remove it and run "
            "the command that made the store again"
        ) from error
    return block


def check_block(path: Path, block: Block, dim: int) -> list[str]:
    """What is wrong with a block, in sentences; empty when it is as store.json says and its numbers make sense."""
    if not path.is_file():
        return [f"{path} is missing"]
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != block.sha256:
        return [f"{path} has changed since it was written"]
    try:
        mapped = map_block(path, dim)
    except ReelkinError as error:
        return [str(error)]
    problems = []
    if (mapped.num_videos, len(mapped.features)) != (block.num_videos, block.num_frames):
        problems.append(
            f"{path} holds {mapped.num_videos} videos and {len(mapped.features)} frames; store.json says "
            f"{block.num_videos} and {block.num_frames}"
        )
    step = max(1, (64 << 20) // (2 * dim))
    bad = [
        int((~np.isfinite(mapped.features[first : first + step])).any(axis=1).sum())
        for first in range(0, len(mapped.features), step)
    ]
    if sum(bad):
        problems.append(f"{path}: the features of {sum(bad)} frames are not finite")
    starts = np.zeros(len(mapped.times) + 1, bool)
    starts[mapped.offsets] = True
    falls = np.diff(mapped.times) < 0
    if not np.isfinite(mapped.times).all() or (falls & ~starts[1:-1]).any():
        problems.append(f"{path}: times are not finite, or fall within a video")
    return problems
