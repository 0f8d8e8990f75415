"""Which videos a build takes: folders, single files, and lists of paths, turned into one sorted list of inputs.

Every input gets an id and ends as a row of the manifest: one that is missing, bears an unusable name or the id of
another is rejected here, before anything is opened.
"""

from __future__ import annotations

import csv
import io
import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.errors import Reason, UsageError

logger = logging.getLogger(__name__)

_KNOWN = """
    .3g2 .3gp .264 .265 .apng .asf .avi .divx .dv .f4v .flv .gif .h264 .h265 .hevc .ivf .m1v .m2ts .m2v .m4v .mj2
    .mjpeg .mjpg .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .nut .obu .ogm .ogv .qt .rm .rmvb .ts .vob .webm .wmv
    .wtv .y4m
"""
VIDEO_EXTENSIONS = frozenset(_KNOWN.split())
"""Files of a folder that count as inputs, whatever is in them; lower case."""

LIST_EXTENSIONS = (".txt", ".csv")


@dataclass(frozen=True, slots=True)
class VideoInput:
    """One input video.

    Attributes:
        video_id: unique among the usable inputs; printable text, unless ``reason`` is BAD_ID (then escaped).
        path: where to open it; may hold undecodable bytes as surrogates, as the operating system gives them.
        name: path relative to its source, for people; printable.
        bytes: size when it was listed, -1 when it is missing.
        modified_ns: time of the last change, nanoseconds since 1970, -1 when missing.
        reason: why it is rejected already, or None.
        detail: a sentence for ``reason``.
    """

    video_id: str
    path: str
    name: str
    bytes: int = -1
    modified_ns: int = -1
    reason: Reason | None = None
    detail: str = ""


@dataclass
class Listing:
    """All inputs of a build, in ascending order of id, and how many other files were passed over, by extension."""

    inputs: list[VideoInput]
    ignored: Counter[str] = field(default_factory=Counter)

    def ignored_in_words(self) -> str:
        """ "5 files that are not videos: .txt 3, .jpg 2", or "" """
        if not self.ignored:
            return ""
        parts = ", ".join(
            f"{extension} {n}" for extension, n in sorted(self.ignored.items(), key=lambda kv: (-kv[1], kv))
        )
        return f"{sum(self.ignored.values())} files that are not videos: {parts}"


@dataclass(frozen=True, slots=True)
class _Candidate:
    stem_id: str  # the id without the extension; for a list's own ids the same as full_id
    full_id: str
    path: str
    name: str


def list_videos(sources: Sequence[Path]) -> Listing:
    """List the inputs.

    Args:
        sources: folders (searched for the known extensions, hidden files left out), single video files, and lists:
            ``.txt`` with a path a line, ``.csv`` with a header and the columns ``video_id`` and ``path``. Paths in a
            list are relative to the list's folder.

    Returns:
        The inputs sorted by id. The id of a file is its path relative to its source without the extension; files that
        would share an id keep their extensions. Of several with the same id still, all but the first given are
        rejected as duplicates.

    Raises:
        UsageError: a source does not exist, or a list cannot be understood.
    """
    listing = Listing([])
    candidates: list[_Candidate] = []
    for source in sources:
        candidates += _candidates(Path(source), listing.ignored)
    ids = _resolve_ids(candidates)
    seen: dict[str, str] = {}
    for candidate, video_id in zip(candidates, ids, strict=True):
        entry = _checked(candidate, video_id)
        if entry.reason is not Reason.BAD_ID:
            if entry.video_id in seen:
                if os.path.realpath(seen[entry.video_id]) == os.path.realpath(entry.path):
                    continue  # the same file, given twice
                text = f"another input with the id {entry.video_id!r} was given before it"
                entry = replace(entry, reason=Reason.DUPLICATE_ID, detail=text)
            else:
                seen[entry.video_id] = entry.path
        listing.inputs.append(entry)
    listing.inputs.sort(key=lambda entry: entry.video_id)  # stable: of duplicates the first given stays first
    return listing


def _candidates(source: Path, ignored: Counter[str]) -> Iterator[_Candidate]:
    if source.is_dir():
        for path in _walk(source):
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


def _walk(folder: Path) -> Iterator[Path]:
    def cannot_list(error: OSError) -> None:
        logger.warning("cannot list %s (%s); what is in it is left out", error.filename, error.strerror)

    for root, folders, files in os.walk(folder, onerror=cannot_list):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                yield Path(root, name)


def _from_path(name: str, path: str) -> _Candidate:
    root, extension = os.path.splitext(name)
    return _Candidate(root if extension.lower() in VIDEO_EXTENSIONS else name, name, path, name)


def _read_list(path: Path) -> str:
    try:
        # Undecodable bytes of file names survive as surrogates, as in os.listdir.
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"videos: cannot read the list {path}: {error.strerror}") from None


def _from_lines(source: Path) -> Iterator[_Candidate]:
    for line in _read_list(source).split("\n"):
        entry = line.rstrip("\r")
        if entry.strip():
            path = os.path.join(source.parent, entry)
            inside = os.path.relpath(path, source.parent) if os.path.isabs(entry) else os.path.normpath(entry)
            name = entry.lstrip("/") if inside.startswith("..") and os.path.isabs(entry) else inside
            yield _from_path(name.replace(os.sep, "/"), path)


def _from_csv(source: Path) -> Iterator[_Candidate]:
    rows = csv.DictReader(io.StringIO(_read_list(source), newline=""))
    columns = rows.fieldnames or []
    if not {"video_id", "path"} <= set(columns):
        found = ", ".join(columns) or "none"
        raise UsageError(f"videos: the list {source} needs a header with the columns video_id and path; found {found}")
    try:
        for row in rows:
            entry, video_id = row["path"] or "", row["video_id"] or ""
            yield _Candidate(video_id, video_id, os.path.join(source.parent, entry) if entry else "", entry.lstrip("/"))
    except csv.Error as error:
        raise UsageError(f"videos: line {rows.line_num} of the list {source} cannot be read ({error})") from None


def _resolve_ids(candidates: Sequence[_Candidate]) -> list[str]:
    """Stems, but full names (with extension) where stems of different files collide."""
    ids = [candidate.stem_id for candidate in candidates]
    while True:
        names_of: dict[str, set[str]] = {}
        for candidate, video_id in zip(candidates, ids, strict=True):
            names_of.setdefault(video_id, set()).add(candidate.full_id)
        longer = [
            candidate.full_id if len(names_of[video_id]) > 1 else video_id
            for candidate, video_id in zip(candidates, ids, strict=True)
        ]
        if longer == ids:
            return ids
        ids = longer  # a full name may in turn equal another's stem (a.mp4 and a.mp4.mkv)


def _checked(candidate: _Candidate, video_id: str) -> VideoInput:
    entry = VideoInput(printable(video_id), candidate.path, printable(candidate.name))
    if not video_id:
        return replace(entry, reason=Reason.BAD_ID, detail="the id is empty")
    if printable(video_id) != video_id:
        text = (
            "the id holds control characters or bytes that are no UTF-8; rename the file, or give an id in a .csv list"
        )
        return replace(entry, reason=Reason.BAD_ID, detail=text)
    if video_id != video_id.strip():
        text = "the id begins or ends with a space; rename the file, or give an id in a .csv list"
        return replace(entry, reason=Reason.BAD_ID, detail=text)
    if not candidate.path:
        return replace(entry, reason=Reason.MISSING, detail="the list gives no path")
    try:
        status = os.stat(candidate.path)
    except FileNotFoundError:
        what = "a link to a file that does not exist" if os.path.islink(candidate.path) else "no such file"
        return replace(entry, reason=Reason.MISSING, detail=what)
    except (OSError, ValueError) as error:
        return replace(entry, reason=Reason.UNREADABLE, detail=getattr(error, "strerror", None) or str(error))
    return replace(entry, bytes=status.st_size, modified_ns=status.st_mtime_ns)


def printable(text: str) -> str:
    """``text`` with control characters and undecodable bytes written as escapes; other text is unchanged."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # an undecodable byte
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def total_bytes(inputs: Iterable[VideoInput]) -> int:
    """Sum of the sizes of inputs that exist."""
    return sum(max(0, entry.bytes) for entry in inputs)
