"""Features in an HDF5 file as they are, read like a feature store: any video in any order.

Published features come as one flat file of many gigabytes with a dataset per video id. Training on it needs no copy:
datasets that lie in the file in one piece, as they do there, are read through a memory map, by any number of threads
and processes; others through the HDF5 library, which lets one thread in at a time.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError, UsageError
from ..storage.rows import StoreRow
from .hdf5 import Hdf5Reader
from .items import bad_id, refuse_array

SAMPLES, SAMPLE_BYTES = 64, 1 << 16
"""`Hdf5Features.digest` reads this many pieces of the file, of this many bytes."""


class Hdf5Features:
    """The videos of an HDF5 file. Safe with threads and after a fork: each process opens the file for itself.

    A dataset of one dimension is a video of one frame. Datasets that are no video of the common dimension are in
    ``rejects``; values are looked at when they are read, not before.

    Attributes:
        path: the file.
        dim: length of a feature: that of most datasets.
        video_ids: videos with features, in the order of their names in the file.
        rejects: a row for each dataset that cannot be used.
        info: what is known of the origin: nothing but the layout.

    Args:
        path: the file.

    Raises:
        ReelkinError: it is no HDF5 file, or cut.
        UsageError: h5py is missing, or no dataset in the file is a video.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info: dict[str, Any] = {"layout": "hdf5"}
        self._reader = Hdf5Reader(self.path)
        self._opened: tuple[int, Any] | None = None
        self._lock = threading.Lock()
        self._names: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, np.dtype] = {}
        self._offsets: dict[str, int] = {}
        self._problems: list[tuple[str, DataError]] = []
        with self._reader.open() as file:
            for name in self._reader.names:
                self._look_at(file, name)
        self.dim = self._common_dim()
        for video_id in [video_id for video_id, shape in self._shapes.items() if shape[-1] != self.dim]:
            shape = list(self._shapes.pop(video_id))
            problem = DataError(Reason.BAD_FRAMES, f"shape {shape}; features of {self.dim} numbers are expected")
            self._problems.append((video_id, problem))
        self.video_ids = list(self._shapes)
        self.rejects = [StoreRow.rejected(name, error.reason, str(error)) for name, error in self._problems]

    def _look_at(self, file: Any, name: str) -> None:
        video_id = name
        try:
            data = self._reader.dataset(file, name)
            video_id = self._reader.video_id(data, name)
            if reason := bad_id(video_id):
                raise DataError(Reason.BAD_ID, reason)
            if video_id in self._names:
                raise DataError(Reason.DUPLICATE_ID, f"{name!r} and {self._names[video_id]!r} are both this video")
            shape, dtype = data.shape, data.dtype
            if problem := refuse_array(shape, dtype):
                raise problem
            if len(shape) > 2:
                raise DataError(
                    Reason.BAD_FRAMES, f"shape {list(shape)}: regions; import them with extract/import_features.py"
                )
            offset = _offset(data, math.prod(shape) * dtype.itemsize)
        except DataError as error:
            self._problems.append((video_id, error))
        except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
            self._problems.append((video_id, DataError(Reason.DAMAGED, f"HDF5 cannot read it: {error}")))
        else:
            self._names[video_id], self._shapes[video_id], self._types[video_id] = name, shape, dtype
            if offset is not None:
                self._offsets[video_id] = offset

    def _common_dim(self) -> int:
        counts = Counter(shape[-1] for shape in self._shapes.values() if len(shape) == 2)
        counts = counts or Counter(shape[-1] for shape in self._shapes.values())
        if not counts:
            name, error = self._problems[0]
            raise UsageError(f"{self.path} holds no video: {name!r} and all others cannot be used ({error})")
        return max(counts, key=lambda dim: (counts[dim], dim))

    def __len__(self) -> int:
        return len(self.video_ids)

    def __contains__(self, video_id: object) -> bool:
        return video_id in self._shapes

    def __repr__(self) -> str:
        return f"Hdf5Features({str(self.path)!r}: {len(self)} videos, {len(self.rejects)} rejected, D = {self.dim})"

    def num_frames(self, video_id: str) -> int:
        """Number of frames, from what was found when the file was opened."""
        shape = self._shape(video_id)
        return shape[0] if len(shape) == 2 else 1

    def features(self, video_id: str, begin: int = 0, end: int | None = None) -> np.ndarray:
        """[T, dim] of a video, or of its frames ``begin:end``, in the file's type (float16, float32 or float64).

        Raises:
            ReelkinError: the file was cut or replaced since it was opened.
        """
        shape = self._shape(video_id)
        try:
            if video_id in self._offsets:
                mapped = np.memmap(self.path, self._types[video_id], "r", self._offsets[video_id], shape)
                return np.array(mapped.reshape(-1, self.dim)[begin:end])
            found: np.ndarray = self._file()[self._names[video_id]][()]
            return found.reshape(-1, self.dim)[begin:end]
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise ReelkinError(
                f"{video_id!r} cannot be read from {self.path} ({error}); the file is damaged, or has changed since "
                "it was opened: copy it again"
            ) from error

    def digest(self) -> str:
        """sha256 (hex) of the file's size, of the names, shapes and types, and of pieces spread over the file.

        Not of all of it: published files have a hundred gigabytes. A copy has the same digest, whatever its date.
        """
        size = self.path.stat().st_size
        hasher = hashlib.sha256(f"hdf5 {size}".encode())
        for name, shape in self._shapes.items():
            hasher.update(f"\0{name} {shape} {self._types[name]}".encode("utf-8", errors="surrogateescape"))
        with open(self.path, "rb") as file:
            for number in range(SAMPLES):
                file.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
                hasher.update(file.read(SAMPLE_BYTES))
        return hasher.hexdigest()

    def _shape(self, video_id: str) -> tuple[int, ...]:
        if video_id not in self:
            raise KeyError(f"{video_id!r} has no features in {self.path}")
        return self._shapes[video_id]

    def _file(self) -> Any:
        """This process's open file."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), self._reader.open()
            return self._opened[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


def _offset(data: Any, num_bytes: int) -> int | None:
    """Where in the file a dataset's values lie one after another, as in memory; None where they do not."""
    import h5py

    plain = data.id.get_create_plist().get_layout() == h5py.h5d.CONTIGUOUS
    # Of values that were never written the offset says nothing.
    written = data.id.get_storage_size() == num_bytes
    return data.id.get_offset() if plain and written else None
