"""VCDB: partial copies in web videos (Jiang, Jiang and Wang, ECCV 2014).

Published at www.yugangjiang.info/research/VCDB: core_dataset with 28 topics, 528 videos named by their SHA-1;
background_dataset with 100,000 videos of YouTube; annotation with a file of copied segments for each topic. The
vcdb.pickle of github.com/xwen99/temporal_context_aggregation lists the ids of both parts, and pairs without times.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from ...core.errors import UsageError
from .annotation_files import LineReport, read_pickle, wrong_structure
from .annotation_tables import PairRows, Times, videos_table
from .dataset import YOUTUBE_ID, DataSet, VideoFile, account, identify, scan, without_extension
from .files import VIDEO_EXTENSIONS
from .inputs import Found, SourceOptions

logger = logging.getLogger(__name__)

_SHA1 = re.compile(r"[0-9a-fA-F]{40}")
_LINE = "videoA,videoB,startA,endA,startB,endB with times as HH:MM:SS"
_PARTS = {"core_dataset": "core", "background_dataset": "background", "distract_dataset": "background"}


def _published_id(text: str) -> str | None:
    return text.lower() if _SHA1.fullmatch(text) else text if YOUTUBE_ID.fullmatch(text) else None


def _vcdb_id(text: str) -> str | None:
    name = text.rpartition("/")[2]
    return _published_id(name) or name or None


def _folders(video: VideoFile) -> tuple[str | None, str]:
    """The part that a file's folders put it into, or None, and its topic, or ""."""
    folders = video.path.split(os.sep)[:-1]  # of the whole path: the source may be core_dataset itself
    for place, name in enumerate(folders):
        if name.lower() in _PARTS:
            return _PARTS[name.lower()], folders[place + 1] if len(folders) > place + 1 else ""
    return None, ""


def _id_text(video: VideoFile) -> str:
    return video.stem if _folders(video)[0] or _published_id(video.stem) else ""


VCDB = DataSet(
    layout="vcdb",
    tree="core_dataset/<topic>/<SHA-1>.<extension>, background_dataset/<YouTube id>.<extension> (either may be "
    "missing), annotation/<topic>.txt",
    usual=re.compile(r"(?:.*/)?annotations?/(?!readme)[^/]+\.txt|(?:.*/)?vcdb[^/]*\.(?:pickle|pkl)", re.I),
    names=re.compile(r"(?!readme)[^/]+\.(?:txt|pickle|pkl)", re.I),
    normal_id=_vcdb_id,
    id_text=_id_text,
)


def find_vcdb(source: Path, options: SourceOptions) -> Found:
    """The core videos, with their topics, and the background videos.

    Missing is what the annotation names and no file bears; of the background only where its folder is there.

    Raises:
        UsageError: the folder or an annotation is not what it should be.
    """
    found = scan(source, VCDB, options)
    facts: dict[str, dict[str, str]] = {}
    files = []
    for video_id, video in identify(found, options):
        part, topic = _folders(video)
        # without the published folders the id tells: a SHA-1 is of the core
        fact = {"part": part or ("core" if _SHA1.fullmatch(video_id) else "background")}
        if fact["part"] == "core" and topic:
            fact["topic"] = topic
        facts.setdefault(video_id, fact)
        files.append((video_id, video))
    has_background = any(fact["part"] == "background" for fact in facts.values())
    wanted: dict[str, str] = {}
    rows = PairRows()
    pickles = [path for path in found.annotations if path.suffix.lower() in (".pickle", ".pkl")]
    for path in found.annotations:
        if path in pickles:
            continue
        if path.suffix.lower() != ".txt":
            raise UsageError(f"annotations: {path} is neither a file of segments (<topic>.txt) nor vcdb.pickle")
        for video_id in _read_segments(path, rows):
            wanted.setdefault(video_id, path.name)
            facts.setdefault(video_id, {"part": "core"}).setdefault("topic", path.stem)
    for path in pickles:
        _read_pickle(path, rows, wanted, facts, has_background)
    result = Found(account(found, files, wanted, options), found.ignored)
    columns = ("part", "topic", "negative") if pickles else ("part", "topic")
    result.tables["videos"] = videos_table((one.stem_id for one in result.candidates), columns, facts)
    if found.annotations:
        result.tables["pairs"] = rows.pairs(VCDB.layout)
    return result


def _read_segments(path: Path, rows: PairRows) -> dict[str, None]:
    """Add the pairs of a topic; returns its videos. A pair whose times are wrong is a pair without times."""
    named: dict[str, None] = {}
    report = LineReport(path, _LINE)
    for number, line in report.lines():
        fields = [field.strip() for field in line.split(",")]
        videos = [_in_a_line(field) for field in fields[:2]]
        if len(fields) not in (2, 6) or None in videos:
            report.drop(number, line)
            continue
        times: list[float | None] = []
        for start, end in (fields[2:4], fields[4:6]) if len(fields) == 6 else ():
            span, why = _span(start, end)
            if why:
                report.doubt(number, line, why)
            times += span
        query, video = (str(one) for one in videos)
        named |= {query: None, video: None}
        rows.add(query, video, "copy", _four(times))
    report.close()
    return named


def _in_a_line(text: str) -> str | None:
    """The id of a video as segment files name it: any name with an extension, or an id alone."""
    stem = without_extension(text.rpartition("/")[2])
    if stem and stem != text and text.lower().endswith(tuple(VIDEO_EXTENSIONS)):
        return _vcdb_id(stem)
    return _published_id(text)


def _span(start: str, end: str) -> tuple[list[float | None], str]:
    """Two times in seconds, and why they cannot be used, or ""."""
    first, last = seconds(start), seconds(end)
    if first is None or last is None:
        return [None, None], f"{start if first is None else end!r} is no time"
    if last < first:
        return [None, None], f"it ends ({end}) before it starts ({start})"
    return [first, last], ""


def _four(times: list[float | None]) -> Times:
    a, b, c, d = times or [None] * 4
    return a, b, c, d


def seconds(text: str) -> float | None:
    """``HH:MM:SS``, ``MM:SS`` or ``SS`` in seconds, fractions and parts over 60 allowed; None if it is no time."""
    if not re.fullmatch(r"(?:\d{1,9}\s*:\s*){0,2}\d{1,9}(?:\.\d{1,9})?", text, re.ASCII):
        return None
    total = 0.0
    for part in text.split(":"):
        total = total * 60 + float(part)
    return total


def _read_pickle(
    path: Path, rows: PairRows, wanted: dict[str, str], facts: dict[str, dict[str, str]], has_background: bool
) -> None:
    content = read_pickle(path, "index")
    try:
        negatives = {_text(video_id) for video_id in content.get("negs", ())}
        known = rows.joined()  # segment files say more: their pairs have times
        for pair in content.get("video_pairs", ()):
            query, video = (_text(video_id) for video_id in pair["videos"])
            if frozenset((query, video)) not in known:
                rows.add(query, video, "copy")
        left_out = 0
        for video_id in dict.fromkeys(_text(video_id) for video_id in content["index"]):
            part = "core" if _SHA1.fullmatch(video_id) else "background"
            fact = facts.setdefault(video_id, {"part": part})
            if video_id in negatives:
                fact["negative"] = "yes"
            if part == "core" or has_background:
                wanted.setdefault(video_id, path.name)
            else:
                left_out += 1
    except (KeyError, TypeError, ValueError) as error:
        raise wrong_structure(path, error) from error
    if left_out:
        logger.info("vcdb: no background_dataset here; its %d videos of %s are not asked for", left_out, path.name)


def _text(video_id: object) -> str:
    if not isinstance(video_id, str) or not video_id:
        raise TypeError(f"{video_id!r} stands where an id should")
    return video_id
