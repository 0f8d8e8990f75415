"""A folder of .npy files, one a video, named by its id; ids with slashes lie in folders.

What this project writes has two kinds of files more: ``export.json`` (frames per second, and the true ids of files
whose id cannot be a file name), and ``ID.times.txt`` beside a video whose frames are not k / fps: a time in seconds a
line.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...core.errors import DataError, Reason, ReelkinError, UsageError
from ...core.files import publish_json, read_json, remove_partials, temporary_beside
from .items import EXPORT_FORMAT, Item, escaped_name, fingerprint_of, is_plain_name, refuse_array, stamp

EXPORT = "export.json"


class NpyReader:
    """A folder of .npy files, or one of them. Videos come in the order of their paths.

    Args:
        path: the folder, searched with what is below it, or a file.
        ids: the id is the path below the folder, or the file's name alone; both without ".npy".

    Raises:
        UsageError: there is no .npy file.
    """

    layout, unit = "npy", "videos"

    def __init__(self, path: Path, ids: Literal["path", "name"] = "path") -> None:
        self._folder = path if path.is_dir() else path.parent
        self._names = sorted(_files(path)) if path.is_dir() else [path.name]
        if not self._names:
            raise UsageError(f"from: {path} holds no .npy file")
        self._by_name = ids == "name"
        self._true_ids: dict[str, str] = {}
        self.fps: float | None = None
        self.timed = False
        if path.is_dir() and (path / EXPORT).is_file():
            self._take(read_json(path / EXPORT), path / EXPORT)
        known = [f"{name} {stamp(self._folder / name)}" for name in self._names if (self._folder / name).exists()]
        self.fingerprint = fingerprint_of(ids, *known)

    def _take(self, export: Any, path: Path) -> None:
        if not isinstance(export, dict) or export.get("format") != EXPORT_FORMAT:
            return
        if not export.get("complete"):
            raise UsageError(f"from: {path.parent} is an export that was stopped; finish it first")
        self._true_ids = {str(name): str(video_id) for name, video_id in export["ids"].items()}
        self.fps = export["fps"]
        self.timed = self.fps is None

    def __len__(self) -> int:
        return len(self._names)

    def read(self, first: int) -> Iterator[Item]:
        """See `items.Reader`."""
        for name in self._names[first:]:
            stem = name.removesuffix(".npy")
            video_id = self._true_ids.get(stem) or (stem.rpartition("/")[2] if self._by_name else stem)
            try:
                yield Item(video_id, load_array(self._folder / name), _times(self._folder / f"{stem}.times.txt"))
            except DataError as error:
                yield Item(video_id, None, None, error)


def _files(folder: Path) -> Iterator[str]:
    """Paths of .npy files below a folder. Links to folders are not followed: they may lead in circles."""
    for root, _, names in os.walk(folder):
        below = os.path.relpath(root, folder)
        for name in names:
            if name.endswith(".npy") and name != ".npy" and ".partial-" not in name:
                yield name if below == "." else f"{below}/{name}"


def load_array(path: Path) -> np.ndarray:
    """The array of a .npy file.

    Raises:
        DataError: there is no file, or it holds no floating point array of 1 to 3 dimensions. Nothing is unpickled.
    """
    try:
        if not path.is_file():
            raise DataError(Reason.UNREADABLE, f"{path} is no regular file")
        # Mapped first: a header may announce more than the file holds, or than fits into memory.
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in read:
                raise ValueError(f"version {version} of the format")
            shape, fortran, dtype = read[version](file)
            problem = refuse_array(shape, dtype)
            if problem:
                raise problem
            begin = file.tell()
        found = np.memmap(path, dtype, "r", begin, shape, "F" if fortran else "C")
        return np.array(found)
    except OSError as error:
        raise DataError(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, SyntaxError, OverflowError, RecursionError) as error:
        raise DataError(Reason.DAMAGED, f"{path} is no whole .npy file of numbers: {error}") from error


def _times(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        return np.array([float(line) for line in path.read_text().split()])
    except (OSError, ValueError) as error:
        raise DataError(Reason.BAD_FRAMES, f"{path} holds no times: {error}") from error


class NpyWriter:
    """Made by `write_npy`."""

    def __init__(self, folder: Path, dtype: str) -> None:
        self._folder, self._dtype = folder, np.dtype(dtype)
        self.ids: dict[str, str] = {}

    def add(self, video_id: str, features: np.ndarray, times: np.ndarray | None) -> None:
        """See `items.Writer`. A file that is there from before is kept if it holds the same."""
        name = video_id
        if not is_plain_name(video_id):
            name = escaped_name(video_id)
            self.ids[name] = video_id
        header = io.BytesIO()
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": features.shape}
        np.lib.format.write_array_header_1_0(header, described)
        self._write(self._folder / f"{name}.npy", header.getvalue() + features.astype(self._dtype).tobytes())
        if times is not None:
            text = "".join(f"{float(each)!r}\n" for each in times)
            self._write(self._folder / f"{name}.times.txt", text.encode())

    def _write(self, path: Path, data: bytes) -> None:
        """Files are flushed together at the end: one by one, a million of them would take hours."""
        try:
            if path.is_file() and path.read_bytes() == data:
                return
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = temporary_beside(path)
            try:
                temporary.write_bytes(data)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise ReelkinError(
                f"cannot write {path}: {error.strerror or error}. Make room or check the permissions, then run the "
                "same command again: what was written before is kept"
            ) from error


@contextmanager
def write_npy(folder: Path, dtype: str, made_from: Mapping[str, Any], fps: float | None) -> Iterator[NpyWriter]:
    """Write a folder of .npy files. Each appears when it is whole; ``export.json`` says at the end that all are there.

    Args:
        made_from: JSON values that identify what is exported: a stopped export goes on when they are the same.

    Raises:
        UsageError: the folder holds something else.
        ReelkinError: the disk is full; the same call goes on.
    """
    said = {"format": EXPORT_FORMAT, "dtype": dtype, "fps": fps, **made_from}
    if folder.exists():
        if not folder.is_dir():
            raise UsageError(f"to: {folder} is a file; name a folder")
        found = read_json(folder / EXPORT) if (folder / EXPORT).is_file() else None
        if found is None and any(folder.iterdir()):
            raise UsageError(f"to: {folder} is not empty; name a new folder")
        if found is not None and {key: found.get(key) for key in said} != said:
            raise UsageError(f"to: {folder} holds another export; name a new folder, or remove that one")
    publish_json(folder / EXPORT, {**said, "complete": False, "ids": {}})
    for root, _, _ in os.walk(folder):
        remove_partials(root)
    writer = NpyWriter(folder, dtype)
    yield writer
    os.sync()
    publish_json(folder / EXPORT, {**said, "complete": True, "ids": writer.ids})
