"""An .npz of the Video Similarity Challenge: video_ids [N], features [N, D], timestamps [N] or [N, 2] of all frames.

Members are read and written as streams, so that a file of any size takes the memory of one video. Frames of a video
follow one another; a time that is given as from and to counts as its from.
"""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError, UsageError
from ...core.files import publishing
from .items import VIDEO_BYTES, Item, fingerprint_of, stamp

FRAMES_AT_ONCE = 4096


class _Rows:
    """Rows of a .npy member, as a stream.

    Attributes:
        shape, dtype: of the array.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f"version {version} of the format")
        self.shape, fortran, self.dtype = read[version](file)
        if self.dtype.hasobject:
            raise ValueError("an array of Python objects, which is never unpickled")
        if fortran and len(self.shape) > 1:
            raise ValueError("an array in Fortran order, which cannot be read row by row")
        self.row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))
        if not 0 < self.row_bytes <= VIDEO_BYTES // FRAMES_AT_ONCE:
            raise ValueError(f"rows of {self.row_bytes} bytes")

    def take(self, count: int) -> np.ndarray:
        """The next ``count`` rows."""
        data = self._file.read(count * self.row_bytes)
        if len(data) != count * self.row_bytes:
            raise ValueError("it ends before its last row")
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


class NpzReader:
    """An .npz file of features. Videos come in the order of the file.

    Raises:
        ReelkinError: the file is cut, damaged, or holds other arrays.
    """

    layout, unit = "npz", "frames"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.fingerprint = fingerprint_of(path.name, stamp(path))
        with ExitStack() as stack:
            members = self._members(stack)
            self._num_frames: int = members["features"].shape[0]
        self.fps: float | None = None
        self.timed = "timestamps" in members

    def __len__(self) -> int:
        return self._num_frames

    def _members(self, stack: ExitStack) -> dict[str, _Rows]:
        try:
            archive = stack.enter_context(zipfile.ZipFile(self._path))
            names = archive.namelist()
            if not {"video_ids.npy", "features.npy"} <= set(names):
                raise ValueError(f"it holds {names[:5]}; video_ids, features and timestamps are expected")
            found = {
                name: _Rows(stack.enter_context(archive.open(f"{name}.npy")))
                for name in ("video_ids", "features", "timestamps")
                if f"{name}.npy" in names
            }
            ids, features, times = found["video_ids"], found["features"], found.get("timestamps")
            if len(ids.shape) != 1 or ids.dtype.kind not in "USiu":
                raise ValueError(f"video_ids of shape {list(ids.shape)} and type {ids.dtype}; expected [N] texts")
            if len(features.shape) not in (2, 3) or features.dtype.kind != "f":
                raise ValueError(f"features of shape {list(features.shape)} and type {features.dtype}; expected [N, D]")
            if times and (times.shape[1:] not in ((), (2,)) or times.dtype.kind not in "fiu"):
                raise ValueError(
                    f"timestamps of shape {list(times.shape)} and type {times.dtype}; expected [N] or [N, 2]"
                )
            if len({rows.shape[0] for rows in found.values()}) > 1:
                raise ValueError(
                    f"arrays of {[rows.shape[0] for rows in found.values()]} rows; they must be equally long"
                )
        except (
            OSError,
            ValueError,
            TypeError,
            SyntaxError,
            zipfile.BadZipFile,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise ReelkinError(f"{self._path} cannot be read as an .npz of features: {error}") from error
        return found

    def read(self, first: int) -> Iterator[Item]:
        """See `items.Reader`.

        Raises:
            ReelkinError: the file ends early, or its bytes are damaged: where its videos lie cannot be known then.
        """
        with ExitStack() as stack:
            members = self._members(stack)
            try:
                for number, item in enumerate(self._videos(members)):
                    if number >= first:
                        yield item
            except (OSError, ValueError, EOFError, zlib.error, zipfile.BadZipFile) as error:
                raise ReelkinError(f"{self._path} is cut or damaged: {error}; copy it again") from error

    def _videos(self, members: dict[str, _Rows]) -> Iterator[Item]:
        held: list[tuple[np.ndarray, np.ndarray | None]] = []
        size, video_id = 0, ""
        left = self._num_frames
        most = max(1, min(FRAMES_AT_ONCE, (64 << 20) // max(rows.row_bytes for rows in members.values())))
        while left:
            count = min(most, left)
            left -= count
            ids, features = members["video_ids"].take(count), members["features"].take(count)
            times = members["timestamps"].take(count) if "timestamps" in members else None
            begins = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), count]
            for begin, end in itertools.pairwise(begins):
                name = _text(ids[begin])
                if held and name != video_id:
                    yield _item(video_id, held, size)
                    held, size = [], 0
                video_id = name
                size += (end - begin) * features[0].nbytes
                if size <= VIDEO_BYTES:
                    held.append((features[begin:end], None if times is None else times[begin:end]))
        if held:
            yield _item(video_id, held, size)


def _text(value: Any) -> str:
    return value.decode("utf-8", errors="surrogateescape") if isinstance(value, bytes) else str(value)


def _item(video_id: str, held: list[tuple[np.ndarray, np.ndarray | None]], size: int) -> Item:
    if size > VIDEO_BYTES:
        problem = DataError(Reason.TOO_LARGE, f"its frames take {size >> 30} GiB; at most {VIDEO_BYTES >> 30} are read")
        return Item(video_id, None, None, problem)
    times = [part[1] for part in held if part[1] is not None]
    return Item(video_id, np.concatenate([part[0] for part in held]), np.concatenate(times) if times else None)


Videos = Callable[[], Iterable[tuple[str, np.ndarray, np.ndarray]]]


def write_npz(path: Path, dtype: str, videos: Videos, ids: list[str], row_shape: tuple[int, ...], frames: int) -> None:
    """Write an .npz file; it appears when it is whole.

    Args:
        videos: called once for each of the three arrays; gives id, features [T, ...] and times [T] of every video.
        ids: of the videos, for the width of the texts.
        row_shape: (D,) or (R, D).
        frames: of all videos.

    Raises:
        ReelkinError: the disk is full; nothing is left.
    """
    if frames == 0:
        raise UsageError("there is no video to write")
    width = max(map(len, ids), default=1)
    arrays: dict[str, tuple[Any, tuple[int, ...], Callable[[str, np.ndarray, np.ndarray], np.ndarray]]] = {
        "video_ids": (f"<U{width}", (), lambda video_id, features, times: np.full(len(times), video_id, f"<U{width}")),
        "features": (dtype, row_shape, lambda video_id, features, times: features),
        "timestamps": ("<f8", (), lambda video_id, features, times: times),
    }
    with publishing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, (kind, shape, part) in arrays.items():
            # a fixed date: the same features, the same bytes
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                header = {"descr": np.dtype(kind).str, "fortran_order": False, "shape": (frames, *shape)}
                np.lib.format.write_array_header_2_0(member, header)
                for video in videos():
                    member.write(np.ascontiguousarray(part(*video), kind).tobytes())
