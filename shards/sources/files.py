"""Folders of videos, single files, and lists: the layout ``files``."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import UsageError
from .arrays import ARRAY_EXTENSION
from .inputs import Candidate, Found, Kind

logger = logging.getLogger(__name__)

_KNOWN = """
    .3g2 .3gp .264 .265 .apng .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2ts .m2v .m4v .mj2
    .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv
    .wtv .y4m
"""
VIDEO_EXTENSIONS = frozenset(_KNOWN.split())
"""Files of a folder that count as inputs, whatever is in them; lower case."""


def find_files(source: Path) -> Found:
    """Find the videos of one source.

    Args:
        source: a folder (searched for the known extensions, hidden files left out), a single video file, or a list:
            ``.txt`` with a path a line, ``.csv`` with a header and the columns ``video_id`` and ``path``. Paths in a
            list are relative to the list's folder. A list, or a single path, may also name ``.npy`` arrays, and a
            list folders of images (found to be folders when sizes are looked up, see `inputs.account_for`).

    Returns:
        The candidates. The id of a file is its path relative to its source without the extension.

    Raises:
        UsageError: the source does not exist, or a list cannot be understood.
    """
    found = Found([])
    found.candidates += _candidates(source, found.ignored)
    return found


def _candidates(source: Path, ignored: Counter[str]) -> Iterator[Candidate]:
    if source.is_dir():
        for path in walk(source):
            extension = path.suffix.lower()
            if extension in VIDEO_EXTENSIONS:
                yield _from_path(path.relative_to(source).as_posix(), str(path))
            else:
                ignored[extension or "(none)"] += 1
    elif not os.path.lexists(source):
        raise UsageError(f"videos: {source} does not exist; give a folder, a video file, or a .txt or .csv list")
    elif source.suffix.lower() == ".csv":
        yield from _from_csv(source)
    elif source.suffix.lower() == ".txt":
        yield from _from_lines(source)
    else:
        yield _from_path(source.name, str(source))


def walk(folder: Path) -> Iterator[Path]:
    """Files below ``folder`` in a fixed order; hidden files and folders are left out."""

    def cannot_list(error: OSError) -> None:
        logger.warning("cannot list %s (%s); what is in it is left out", error.filename, error.strerror)

    for root, folders, files in os.walk(folder, onerror=cannot_list):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(root, name)):
                logger.warning(
                    "%s is a link to a folder and not followed; give the folder itself too", Path(root, name)
                )
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root, name)


def _from_path(name: str, path: str) -> Candidate:
    root, extension = os.path.splitext(name)
    if extension.lower() == ARRAY_EXTENSION:
        return Candidate(root, name, path, name, Kind.ARRAY)
    return Candidate(root if extension.lower() in VIDEO_EXTENSIONS else name, name, path, name)


def _read_list(path: Path) -> str:
    try:
        # Undecodable bytes of file names survive as surrogates, as in os.listdir.
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"videos: cannot read the list {path}: {error.strerror}") from None


def _from_lines(source: Path) -> Iterator[Candidate]:
    for line in _read_list(source).split("\n"):
        entry = line.rstrip("\r")
        if entry.strip():
            path = os.path.join(source.parent, entry)
            inside = os.path.relpath(path, source.parent) if os.path.isabs(entry) else os.path.normpath(entry)
            name = entry.lstrip("/") if inside.startswith("..") and os.path.isabs(entry) else inside
            yield _from_path(name.replace(os.sep, "/"), path)


def _from_csv(source: Path) -> Iterator[Candidate]:
    rows = csv.DictReader(io.StringIO(_read_list(source), newline=""))
    columns = rows.fieldnames or []
    if not {"video_id", "path"} <= set(columns):
        found = ", ".join(columns) or "none"
        raise UsageError(f"videos: the list {source} needs a header with the columns video_id and path; found {found}")
    try:
        for row in rows:
            entry, video_id = row["path"] or "", row["video_id"] or ""
            kind = Kind.ARRAY if entry.lower().endswith(ARRAY_EXTENSION) else Kind.FILE
            path = os.path.join(source.parent, entry) if entry else ""
            yield Candidate(video_id, video_id, path, entry.lstrip("/"), kind)
    except csv.Error as error:
        raise UsageError(f"videos: line {rows.line_num} of the list {source} cannot be read ({error})") from None
