"""Kinetics-400, -600 and -700: clips of human actions (Kay et al., 2017; Carreira et al., 2018 and 2019).

Published as csv (label,youtube_id,time_start,time_end,split); the clips, as the CVDF's copies and the usual crawlers
store them, are <split>/<class>/<YouTube id>_<start>_<end>.mp4 with seconds of six digits. Clips vanish from YouTube, so
missing ones are normal. The lists of TSN and MMAction2, lines "class/clip.mp4 17", are read too.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from ...core.errors import UsageError
from .annotation_files import LineReport, read_text
from .annotation_tables import videos_table
from .dataset import DataSet, VideoFile, account, identify, scan, without_extension, youtube_id
from .inputs import Found, SourceOptions, printable

logger = logging.getLogger(__name__)

_ID = re.compile(r"([A-Za-z0-9_-]{11})_(\d{1,6})_(\d{1,6})")
_SPLITS = {"train": "train", "training": "train", "val": "val", "validate": "val", "validation": "val", "test": "test"}
_COLUMNS = ("youtube_id", "time_start", "time_end")
_LIST = re.compile(r"[^/]*(train|val|test)[^/]*list[^/]*\.txt|[^/]*list[^/]*(train|val|test)[^/]*\.txt", re.I)


def _clip_id(text: str) -> str | None:
    """``<YouTube id>_<start>_<end>`` with six digits each, also where they are fewer; a bare id of YouTube stays."""
    match = _ID.fullmatch(text.rpartition("/")[2])
    return f"{match[1]}_{int(match[2]):06d}_{int(match[3]):06d}" if match else youtube_id(text.rpartition("/")[2])


KINETICS = DataSet(
    layout="kinetics",
    tree="<train|val|test>/<class>/<YouTube id>_<start>_<end>.mp4 with seconds of six digits, and the published csv "
    "(label,youtube_id,time_start,time_end,split)",
    usual=re.compile(rf"(?:.*/)?(?:[^/]+\.csv|{_LIST.pattern})", re.I),
    names=re.compile(rf"[^/]+\.csv|{_LIST.pattern}", re.I),
    normal_id=_clip_id,
)


def find_kinetics(source: Path, options: SourceOptions) -> Found:
    """The clips; missing is what a csv or a list names and no file bears.

    Raises:
        UsageError: the folder, or an annotation that the user names, is not what it should be.
    """
    found = scan(source, KINETICS, options)
    wanted: dict[str, str] = {}
    facts: dict[str, dict[str, str]] = {}
    repeated = 0
    for path in found.annotations:
        for video_id, fact in _read(path, named=bool(options.annotations)):
            known = facts.setdefault(video_id, fact)
            repeated += known.get("label") != fact.get("label") or known.get("split") != fact.get("split")
            wanted.setdefault(video_id, path.name)
    if repeated:
        logger.warning("kinetics: %d clips stand in the lists with two labels or splits; the first counts", repeated)
    files = _with_times(identify(found, options), wanted)
    for video_id, video in files:
        facts.setdefault(video_id, {**_fact(video_id), **_of_folders(source, video)})
    result = Found(account(found, files, wanted, options), found.ignored)
    ids = [*facts, *(one.stem_id for one in result.candidates)]
    columns = ("label", "split", "youtube_id", "time_start", "time_end")
    result.tables["videos"] = videos_table(ids, columns, facts)
    return result


def _with_times(files: list[tuple[str, VideoFile]], wanted: dict[str, str]) -> list[tuple[str, VideoFile]]:
    """Some crawlers leave the times out of the names: the csv tells them, where a video has one clip."""
    if all(len(video_id) > 11 for video_id, _ in files):
        return files
    clips: dict[str, list[str]] = {}
    for clip_id in wanted:
        clips.setdefault(clip_id[:11], []).append(clip_id)
    complete = []
    for video_id, video in files:
        options = clips.get(video_id, ()) if len(video_id) == 11 else ()
        complete.append((options[0] if len(options) == 1 else video_id, video))
    return complete


def _fact(clip_id: str) -> dict[str, str]:
    match = _ID.fullmatch(clip_id)
    if match is None:
        return {"youtube_id": clip_id}
    return {"youtube_id": match[1], "time_start": str(int(match[2])), "time_end": str(int(match[3]))}


def _of_folders(source: Path, video: VideoFile) -> dict[str, str]:
    """Label and split of a clip that no list names; class names with underscores are those with spaces."""
    folders = [source.resolve().name, *video.folders]
    split = next((_SPLITS[name.lower()] for name in reversed(folders) if name.lower() in _SPLITS), "")
    last = video.folders[-1] if video.folders else ""
    return {"label": "" if last.lower() in _SPLITS else last.replace("_", " "), "split": split}


def _read(path: Path, named: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Ids and attributes of a list; other csv files that happen to lie in the folder are passed over."""
    if path.suffix.lower() == ".txt":
        yield from _read_list(path)
    elif path.suffix.lower() == ".csv":
        yield from _read_csv(path, named)
    else:
        raise UsageError(f"annotations: {path} is neither a csv of Kinetics nor a list <class>/<clip>.mp4 <number>")


def _read_csv(path: Path, named: bool) -> Iterator[tuple[str, dict[str, str]]]:
    rows = csv.reader(read_text(path).splitlines())
    try:
        columns = [name.strip() for name in next(rows, [])]
        lines = list(rows) if set(_COLUMNS) <= set(columns) else None
    except csv.Error as error:
        columns, lines = [f"what cannot be read: {error}"], None
    if lines is None:
        text = f"{path} has not the columns {', '.join(_COLUMNS)}, but {printable(', '.join(columns))[:100] or 'none'}"
        if named:
            raise UsageError(f"annotations: {text}; give the published csv")
        logger.info("kinetics: %s: not a list of clips", text)
        return
    bad = []
    for number, line in enumerate(lines, 2):
        row = dict(zip(columns, (field.strip() for field in line), strict=False))
        start, end = (_whole_seconds(row.get(name, "")) for name in _COLUMNS[1:])
        youtube = youtube_id(row.get("youtube_id", ""))
        if youtube is not None and start is not None and end is not None:
            fact = {"youtube_id": youtube, "time_start": str(start), "time_end": str(end)}
            fact["label"] = row.get("label", "").replace("_", " ")
            split = row.get("split", "")
            fact["split"] = _SPLITS.get(split.lower(), split)
            yield f"{youtube}_{start:06d}_{end:06d}", fact
        elif line:
            bad.append(f"line {number} ({printable(','.join(line))[:80]!r})")
    if bad:
        logger.warning("annotations: %s: %d lines are left out: %s", path, len(bad), "; ".join(bad[:5]))


def _whole_seconds(text: str) -> int | None:
    match = re.fullmatch(r"(\d{1,6})(?:\.0*)?", text, re.ASCII)
    return int(match[1]) if match else None


def _read_list(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    match = _LIST.fullmatch(path.name)
    split = (match[1] or match[2]).lower() if match else ""
    report = LineReport(path, "<class>/<clip>.mp4 <number of the class>")
    for number, line in report.lines():
        name = re.sub(r"(\.\w{2,5})\s+\d+$", r"\1", line)
        folder, _, clip = name.rpartition("/")
        video_id = _clip_id(without_extension(clip))
        if video_id is None:
            report.drop(number, line)
        else:
            label = folder.rpartition("/")[2].replace("_", " ")
            yield video_id, {**_fact(video_id), "label": label if label not in _SPLITS else "", "split": split}
    report.close()
