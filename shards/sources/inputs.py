"""The inputs of a build: one record for each video that was asked for, usable or not.

Every input gets an id and ends as a row of the manifest: one that is missing, bears an unusable name or the id of
another is rejected here, before anything is opened.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

import pyarrow as pa

from ...core.errors import Reason
from .folders import changed_ns, measure_images


class Kind(StrEnum):
    """What an input is on the disk."""

    FILE = "file"
    """A video file."""
    FRAMES = "frames"
    """A folder of images, one for each picture."""
    ARRAY = "array"
    """A ``.npy`` file of pictures, N x H x W x C."""


@dataclass(frozen=True, slots=True)
class VideoInput:
    """One input video.

    Attributes:
        video_id: unique among the usable inputs; printable text, unless ``reason`` is BAD_ID (then escaped).
        path: where to open it, a folder for FRAMES; may hold undecodable bytes as surrogates, as the operating system
            gives them.
        name: path relative to its source, for people; printable.
        bytes: size when it was listed, of all images for FRAMES; -1 when it is missing.
        modified_ns: time of the last change, nanoseconds since 1970, -1 when missing.
        reason: why it is rejected already, or None.
        detail: a sentence for ``reason``.
        kind: what it is on the disk.
    """

    video_id: str
    path: str
    name: str
    bytes: int = -1
    modified_ns: int = -1
    reason: Reason | None = None
    detail: str = ""
    kind: Kind = Kind.FILE


@dataclass(frozen=True, slots=True)
class Candidate:
    """An input as a layout finds it, before ids are settled.

    Attributes:
        stem_id: the id that is wanted.
        full_id: what the id becomes where ``stem_id`` would name several inputs of different ``full_id``; for ids that
            a data set or a list gives, the same as ``stem_id``.
        path: where it is, "" when it is missing.
        name: path relative to its source, for people.
        kind: what it is on the disk.
        bytes, modified_ns: as in `VideoInput` where the layout knows them already, else -1 and they are looked up.
        detail: why it is missing, a sentence.
    """

    stem_id: str
    full_id: str
    path: str
    name: str
    kind: Kind = Kind.FILE
    bytes: int = -1
    modified_ns: int = -1
    detail: str = ""


@dataclass(frozen=True)
class SourceOptions:
    """What a layout may need to know beside the source itself.

    Attributes:
        ids: file that lists the data set's ids; those that are not found count as missing.
        annotations: annotation files or folders that do not lie in their usual place below the source.
        pattern: where the video of an id lies, relative to the source, with ``{id}`` and wildcards.
    """

    ids: Path | None = None
    annotations: tuple[Path, ...] = ()
    pattern: str | None = None


@dataclass
class Found:
    """What a layout found in one source.

    Attributes:
        candidates: the inputs, missing ones included.
        ignored: files that were passed over, by extension.
        tables: annotations of a data set in its own ids, by name ("videos", "pairs"); see docs/datasets.md.
    """

    candidates: list[Candidate]
    ignored: Counter[str] = field(default_factory=Counter)
    tables: dict[str, pa.Table] = field(default_factory=dict)


@dataclass
class Listing:
    """All inputs of a build in ascending order of id, the other files that were passed over, and annotations."""

    inputs: list[VideoInput]
    ignored: Counter[str] = field(default_factory=Counter)
    tables: dict[str, pa.Table] = field(default_factory=dict)

    def ignored_in_words(self) -> str:
        """ "5 files that are not videos: .txt 3, .jpg 2", or "" """
        if not self.ignored:
            return ""
        parts = ", ".join(
            f"{extension} {n}" for extension, n in sorted(self.ignored.items(), key=lambda kv: (-kv[1], kv))
        )
        return f"{sum(self.ignored.values())} files that are not videos: {parts}"


def account_for(candidates: Sequence[Candidate]) -> list[VideoInput]:
    """Settle ids, look up sizes, and reject what cannot be used.

    Returns:
        The inputs in ascending order of id. Candidates that would share an id keep their full ids. Of several with the
        same id still, all but the first given are rejected as duplicates; the same file given twice is one input. What
        turns out to be a folder is of kind FRAMES.
    """
    inputs: list[VideoInput] = []
    seen: dict[str, str] = {}
    for candidate, video_id in zip(candidates, _resolve_ids(candidates), strict=True):
        entry = _checked(candidate, video_id)
        if entry.reason is not Reason.BAD_ID:
            if entry.video_id in seen:
                if os.path.realpath(seen[entry.video_id]) == os.path.realpath(entry.path):
                    continue  # the same file, given twice
                text = f"another input with the id {entry.video_id!r} was given before it"
                entry = replace(entry, reason=Reason.DUPLICATE_ID, detail=text)
            else:
                seen[entry.video_id] = entry.path
        inputs.append(entry)
    inputs.sort(key=lambda entry: entry.video_id)  # stable: of duplicates the first given stays first
    return inputs


def _resolve_ids(candidates: Sequence[Candidate]) -> list[str]:
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


def _checked(candidate: Candidate, video_id: str) -> VideoInput:
    entry = VideoInput(printable(video_id), candidate.path, printable(candidate.name), kind=candidate.kind)
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
        return replace(entry, reason=Reason.MISSING, detail=printable(candidate.detail) or "the list gives no path")
    if candidate.bytes >= 0:
        return replace(entry, bytes=candidate.bytes, modified_ns=candidate.modified_ns)
    try:
        status = os.stat(candidate.path)
        if stat.S_ISDIR(status.st_mode):
            size, newest = measure_images(candidate.path)
            return replace(entry, kind=Kind.FRAMES, bytes=size, modified_ns=newest)
    except FileNotFoundError:
        what = "a link to a file that does not exist" if os.path.islink(candidate.path) else "no such file"
        return replace(entry, reason=Reason.MISSING, detail=what)
    except (OSError, ValueError) as error:
        return replace(entry, reason=Reason.UNREADABLE, detail=getattr(error, "strerror", None) or str(error))
    return replace(entry, bytes=status.st_size, modified_ns=changed_ns(status))


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
