"""HDF5 keyed by video id: a dataset per video, ids with slashes in groups.

Nothing outside the file is opened: soft and external links, virtual datasets and external storage are rejected. What
this project writes has two attributes more than published files: ``fps`` of the file, and ``times`` (float64 [T]) of a
video whose frames are not k / fps; other readers do not notice.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError, UsageError
from ...core.files import publishing
from .items import EXPORT_FORMAT, Item, escaped_name, fingerprint_of, is_plain_name, prefixes, refuse_array, stamp

DEEPEST = 64


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise UsageError("HDF5 needs the package h5py: pip install 'reelkin[hdf5]', or pip install h5py") from error
    return h5py


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ReelkinError(
            f"{path} cannot be read as HDF5 ({error}); it is cut, damaged or something else: copy it again"
        ) from error


class Hdf5Reader:
    """An HDF5 file of features. Videos come in the order of their names.

    Args:
        path: the file.

    Attributes:
        names: of all that is no group, sorted; what can be read of it shows when it is read.

    Raises:
        ReelkinError: it is no HDF5 file, or cut.
        UsageError: h5py is missing, or no dataset is in it.
    """

    layout, unit = "hdf5", "videos"

    def __init__(self, path: Path) -> None:
        self._path = path
        _h5py()  # its absence shows at once
        self._links: set[str] = set()
        with _reading(path), self.open() as file:
            self.names = sorted(self._walk(file))
            fps = file.attrs.get("fps")
            self.fps = float(fps) if isinstance(fps, (float, np.floating)) and 0 < fps < 1e6 else None
            self._ours = file.attrs.get("format") == EXPORT_FORMAT
            self.timed = self.fps is None and self._ours
        if not self.names:
            raise UsageError(f"from: {path} holds no dataset; a dataset per video is expected")
        self.fingerprint = fingerprint_of(stamp(path), *self.names)

    def __len__(self) -> int:
        return len(self.names)

    def open(self) -> Any:
        """The file, opened for reading; the caller closes it."""
        return _h5py().File(self._path, "r", locking=False)

    def _walk(self, group: Any, prefix: str = "", inside: tuple[int, ...] = ()) -> Iterator[str]:
        """Names of everything that is no group. A group within itself is not entered."""
        address = _h5py().h5o.get_info(group.id).addr
        if address in inside or len(inside) >= DEEPEST:
            return
        for name in group:
            full = f"{prefix}{name}"
            encoded = name.encode("utf-8", errors="surrogateescape")
            if group.id.links.get_info(encoded).type != _h5py().h5l.TYPE_HARD:
                self._links.add(full)
            elif _h5py().h5o.get_info(group.id, encoded).type == _h5py().h5o.TYPE_GROUP:
                yield from self._walk(group[name], f"{full}/", (*inside, address))
                continue
            yield full

    def read(self, first: int) -> Iterator[Item]:
        """See `items.Reader`."""
        with self.open() as file:
            for name in self.names[first:]:
                video_id = name
                try:
                    data = self.dataset(file, name)
                    video_id = self.video_id(data, name)
                    problem = refuse_array(data.shape, data.dtype)
                    if problem:
                        raise problem
                    times = self._times(data)
                    yield Item(video_id, data[()], times)
                except DataError as error:
                    yield Item(video_id, None, None, error)
                except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                    yield Item(video_id, None, None, DataError(Reason.DAMAGED, f"HDF5 cannot read it: {error}"))

    def dataset(self, file: Any, name: str) -> Any:
        """The dataset of this name. Raises DataError when it is none, or when its values do not lie in this file."""
        if name in self._links:
            raise DataError(Reason.FORBIDDEN_FORMAT, "a link; only datasets in the file itself are read")
        data = file[name]
        if not isinstance(data, _h5py().Dataset) or data.shape is None:
            raise DataError(Reason.BAD_FRAMES, "no dataset with values")
        if data.is_virtual or data.external:
            raise DataError(Reason.FORBIDDEN_FORMAT, "its values lie in other files; only this file is read")
        return data

    def video_id(self, data: Any, name: str) -> str:
        """The id of a dataset's video: its name, unless it could not be one."""
        given = data.attrs.get("video_id") if self._ours else None
        return given if isinstance(given, str) else name

    def _times(self, data: Any) -> np.ndarray | None:
        if not self._ours or "times" not in data.attrs:
            return None
        identity = data.attrs.get_id("times")
        problem = refuse_array(identity.shape, identity.dtype)
        return None if problem else data.attrs["times"]


class Hdf5Writer:
    """Made by `write_hdf5`."""

    def __init__(self, file: Any, dtype: str, ids: Sequence[str]) -> None:
        self._file, self._dtype = file, dtype
        self._groups = {prefix for video_id in ids for prefix in prefixes(video_id)}

    def add(self, video_id: str, features: np.ndarray, times: np.ndarray | None) -> None:
        """See `items.Writer`."""
        plain = is_plain_name(video_id) and video_id not in self._groups  # a dataset cannot also be a group
        data = self._file.create_dataset(
            video_id if plain else escaped_name(video_id), data=features.astype(self._dtype), track_times=False
        )
        if not plain:
            data.attrs["video_id"] = video_id
        if times is not None:
            data.attrs["times"] = times


@contextmanager
def write_hdf5(path: Path, dtype: str, ids: Sequence[str], fps: float | None) -> Iterator[Hdf5Writer]:
    """Write an HDF5 file; it appears when the body ends.

    Raises:
        UsageError: h5py is missing.
        ReelkinError: the disk is full; nothing is left.
    """
    h5py = _h5py()
    with publishing(path) as temporary:
        try:
            # From 1.8 on, attributes may be larger than 64 kB: the times of a long video.
            with h5py.File(temporary, "w", libver=("v108", "v108"), locking=False) as file:
                file.attrs["format"] = EXPORT_FORMAT
                if fps:
                    file.attrs["fps"] = fps
                yield Hdf5Writer(file, dtype, ids)
        except (OSError, RuntimeError, ValueError) as error:
            # HDF5 reports a full disk in words only
            if "No space left" in str(error) or shutil.disk_usage(temporary.parent).free < 1 << 16:
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise
