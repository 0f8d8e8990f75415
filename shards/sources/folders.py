"""Folders below a source, links to folders included, and the images in one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..video.frame_names import is_image

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Folder:
    """One folder: its path relative to the source ("" for the source itself), where it is, and its files, sorted."""

    name: str
    path: Path
    files: list[os.DirEntry[str]]


def folders_below(source: Path) -> Iterator[Folder]:
    """Every folder from ``source`` downwards in a fixed order, parents first; hidden files and folders are left out.

    Links to folders are followed, except to one that the link itself lies in. A folder that cannot be listed is
    logged and passed over.
    """
    # Each with the folders that it lies in, by device and inode.
    waiting: list[tuple[str, Path, frozenset[tuple[int, int]]]] = [("", source, frozenset())]
    while waiting:
        name, path, above = waiting.pop()
        try:
            status = os.stat(path)
            here = (status.st_dev, status.st_ino)
            if here in above:
                logger.warning("%s is a link to a folder that it lies in; it is left out", path)
                continue
            with os.scandir(path) as entries:
                found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            logger.warning("cannot list %s (%s); what is in it is left out", path, error.strerror)
            continue
        inner = [entry for entry in found if _is_folder(entry)]
        yield Folder(name, path, [entry for entry in found if not _is_folder(entry)])
        for entry in reversed(inner):
            waiting.append((f"{name}/{entry.name}" if name else entry.name, path / entry.name, above | {here}))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def changed_ns(status: os.stat_result) -> int:
    """Time of the last change in nanoseconds, within what 64 bits hold: a file can say that it is of the year 2400."""
    return max(-(1 << 63), min(status.st_mtime_ns, (1 << 63) - 1))


def measure(files: list[os.DirEntry[str]]) -> tuple[int, int]:
    """Sum of the sizes in bytes, and time of the newest change in nanoseconds; what is not there counts as nothing."""
    size, newest = 0, 0
    for entry in files:
        try:
            status = entry.stat()
        except OSError:  # a link to nowhere: packing says so by its name
            continue
        size, newest = size + status.st_size, max(newest, changed_ns(status))
    return size, newest


def measure_images(folder: str | Path) -> tuple[int, int]:
    """`measure` for the images that lie directly in a folder. Raises OSError when it cannot be listed."""
    with os.scandir(folder) as entries:
        return measure([entry for entry in entries if is_image(entry.name) and not _is_folder(entry)])
