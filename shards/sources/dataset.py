"""Published data sets as they lie on disk: one walk over the folder, files matched with ids, missing ids named.

A data set has ids of its own, which its annotations speak of. Its folder is walked once; every video file gets the id
it stands for, and every id that the lists name and no file bears becomes a candidate without a path.
"""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import UsageError
from .annotation_files import numbered_lines
from .files import VIDEO_EXTENSIONS, walk
from .inputs import Candidate, SourceOptions, printable

logger = logging.getLogger(__name__)

YOUTUBE_ID = re.compile(r"[A-Za-z0-9_-]{11}")
"""An id of YouTube; may begin with a dash."""


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before its folder is looked at.

    Attributes:
        layout: its name in `listing.LAYOUTS`.
        tree: the files that are expected below the source, one line for people.
        usual: where annotation files lie, matched with their paths relative to the source.
        names: annotation files of a folder that the user names, matched with their names.
        normal_id: turns an id as it stands in a list, or is told by a file's name, into the data set's id; None when
            it is none.
        id_text: what of a file's name tells its id; by default the name without extension.
    """

    layout: str
    tree: str
    usual: re.Pattern[str]
    names: re.Pattern[str]
    normal_id: Callable[[str], str | None]
    id_text: Callable[[VideoFile], str] = lambda video: video.stem


@dataclass(frozen=True, slots=True)
class VideoFile:
    """A video file below a source: where it is, and its path relative to the source."""

    path: str
    name: str

    @property
    def folders(self) -> list[str]:
        """The folders it lies in, from the source down."""
        return self.name.split("/")[:-1]

    @property
    def stem(self) -> str:
        """Its name without folders and extension."""
        return os.path.splitext(self.name.rpartition("/")[2])[0]


@dataclass
class Scan:
    """What one walk over a source saw.

    Attributes:
        videos: files with a video extension, in the order of the walk.
        annotations: annotation files: those the user names, else those in their usual places.
        ignored: the other files, by extension.
    """

    data_set: DataSet
    source: Path
    videos: list[VideoFile] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)

    def wrong_folder(self, what: str) -> UsageError:
        """An error that says what was expected here and what was found."""
        try:
            folders = sorted(entry.name for entry in os.scandir(self.source) if entry.is_dir())
        except OSError:
            folders = []
        shown = [printable(name) for name in folders[:5]] + (["..."] if len(folders) > 5 else [])
        counts = Counter(os.path.splitext(video.name)[1].lower() for video in self.videos) + self.ignored
        files = ", ".join(f"{n} {extension}" for extension, n in counts.most_common(5)) or "no files"
        return UsageError(
            f"videos: {self.source} {what}; the layout {self.data_set.layout} expects {self.data_set.tree}; found: "
            f"{files}, {'the folders ' + ', '.join(shown) if shown else 'no folders'}"
        )


def scan(source: Path, data_set: DataSet, options: SourceOptions) -> Scan:
    """Walk over a data set's folder, once.

    Raises:
        UsageError: the source, or an annotation that the user names, does not exist.
    """
    result = Scan(data_set, source)
    if not source.is_dir():
        what = "is a file" if os.path.lexists(source) else "does not exist"
        raise UsageError(f"videos: {source} {what}; the layout {data_set.layout} expects a folder with {data_set.tree}")
    prefix = len(os.path.join(source, ""))
    for path in walk(source):
        text = os.fspath(path)
        name = text[prefix:].replace(os.sep, "/")
        extension = os.path.splitext(name)[1].lower()
        if extension in VIDEO_EXTENSIONS:
            result.videos.append(VideoFile(text, name))
        elif not options.annotations and data_set.usual.fullmatch(name):
            result.annotations.append(path)
        else:
            result.ignored[extension or "(none)"] += 1
    for given in options.annotations:
        if given.is_dir():
            named = [path for path in walk(given) if data_set.names.fullmatch(path.name)]
            if not named:
                raise UsageError(f"annotations: {given} holds no annotation file of the layout {data_set.layout}")
            result.annotations += named
        elif os.path.lexists(given):
            result.annotations.append(given)
        else:
            raise UsageError(f"annotations: {given} does not exist; give a file, or a folder of annotation files")
    return result


def identify(found: Scan, options: SourceOptions) -> list[tuple[str, VideoFile]]:
    """The data set's id of every video file: from its name, or as the option ``pattern`` says.

    Files that bear no id of the data set are left out, with their number in the log.

    Raises:
        UsageError: no file bears an id of the data set, or the pattern cannot be used.
    """
    pattern = id_pattern(options.pattern) if options.pattern is not None else None
    identified, strangers = [], []
    for video in found.videos:
        if pattern is None:
            text: str | None = found.data_set.id_text(video)
        else:
            match = pattern.fullmatch(video.name)
            text = match["id"] if match else None
        video_id = found.data_set.normal_id(text) if text is not None else None
        if video_id is None:
            strangers.append(video.name)
        else:
            identified.append((video_id, video))
    if not identified:
        where = f" where {options.pattern!r} says" if options.pattern is not None else ""
        raise found.wrong_folder(f"holds no video of the data set{where}")
    if strangers:
        logger.warning(
            "%s: %d video files are left out, they bear no id of the data set: %s",
            found.data_set.layout,
            len(strangers),
            some(strangers),
        )
    return identified


def id_pattern(pattern: str) -> re.Pattern[str]:
    """A pattern such as ``{id}/video.*`` as a regular expression with the group ``id``, for relative paths.

    ``*`` and ``?`` stay within one folder, ``**/`` stands for any folders, ``{id}`` for a name or a part of one.

    Raises:
        UsageError: ``{id}`` does not stand in it exactly once.
    """
    if pattern.count("{id}") != 1:
        raise UsageError(f"pattern: {pattern!r} must hold {{id}} once, as in '{{id}}.*' or '{{id}}/video.*'")
    parts = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]", "{id}": "(?P<id>[^/]+)"}
    pieces = re.split(r"(\*\*/|\*|\?|\{id\})", pattern.removeprefix("./"))
    return re.compile("".join(parts.get(piece, re.escape(piece)) for piece in pieces), re.DOTALL)


def read_ids(path: Path, normal_id: Callable[[str], str | None]) -> list[str]:
    """The ids of a list with one a line, each once, in file order; extensions of videos may follow.

    Raises:
        UsageError: the list cannot be read, or holds no id.
    """
    ids: dict[str, None] = {}
    bad = []
    for number, line in numbered_lines(path):
        video_id = normal_id(without_extension(line))
        if video_id is None:
            bad.append(f"line {number}: {printable(line)[:60]!r}")
        else:
            ids[video_id] = None
    if not ids:
        raise UsageError(
            f"ids: {path} holds no id of the data set; it needs one a line" + (f" ({bad[0]})" if bad else "")
        )
    if bad:
        logger.warning("ids: %s: %d lines are no ids and are left out: %s", path, len(bad), "; ".join(bad[:3]))
    return list(ids)


def account(
    found: Scan, files: list[tuple[str, VideoFile]], wanted: Mapping[str, str], options: SourceOptions
) -> list[Candidate]:
    """Candidates for every file, and one without a path for every wanted id that has no file.

    Args:
        found: the walk that found the files.
        files: from `identify`.
        wanted: by id where it is listed; ids that the data set's annotations name. Files whose id is not among them
            are inputs all the same. With the option ``ids`` it is that list which counts: exactly its ids are taken.

    Raises:
        UsageError: the option ``ids`` cannot be read, or names no id of the data set.
    """
    layout = found.data_set.layout
    if options.ids is not None:
        wanted = dict.fromkeys(read_ids(options.ids, found.data_set.normal_id), options.ids.name)
        others = len(files)
        files = [(video_id, video) for video_id, video in files if video_id in wanted]
        others -= len(files)
        if others:
            logger.info("%s: %d video files are left out, %s does not name them", layout, others, options.ids)
    elif wanted:
        others = sum(video_id not in wanted for video_id, _ in files)
        if others:
            logger.info("%s: %d video files are taken that no list of the data set names", layout, others)
    candidates = [Candidate(video_id, video_id, video.path, video.name) for video_id, video in files]
    present = {video_id for video_id, _ in files}
    missing = [video_id for video_id in wanted if video_id not in present]
    for video_id in missing:
        detail = f"named by {wanted[video_id]}, but no file of the source bears this id"
        candidates.append(Candidate(video_id, video_id, "", "", detail=detail))
    if wanted:
        logger.info(
            "%s: %d of %d named videos are there, %d missing",
            layout,
            len(wanted) - len(missing),
            len(wanted),
            len(missing),
        )
    return candidates


def without_extension(name: str) -> str:
    """``name`` without the extension of a video; other dots are part of the name."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in VIDEO_EXTENSIONS else name


def youtube_id(text: str) -> str | None:
    """``text`` if it is an id of YouTube, else None."""
    return text if YOUTUBE_ID.fullmatch(text) else None


def some(names: Iterable[str], at_most: int = 3) -> str:
    """The first of some names, for a message."""
    listed = list(names)
    return ", ".join(printable(name) for name in listed[:at_most]) + (", ..." if len(listed) > at_most else "")
