"""SVD (Jiang et al., ICCV 2019): near-duplicate short videos, the test part: 206 queries, 6,355 judged pairs.

A query is ranked against the videos judged for it and, where their list is given, the unlabelled ones, which count as
wrong; what is judged for another query is not ranked. Ids are written with ".mp4", as published, and understood with
any extension or none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...core.errors import UsageError
from ...core.files import sha256_file
from ...shards.sources.annotation_files import numbered_lines, wrong_structure
from .annotation import Annotation, ProblemLog, Source, each_once
from .content import read_content, shipped

POSITIVE, NEGATIVE = "1", "0"
_ID = re.compile(r"(\d+)(\.[A-Za-z0-9]{1,5})?", re.ASCII)
_UNLABELED = ("unlabeled-data-id", "unlabeled-data-id.txt")
_TRUTH = ("test_groundtruth", "test_groundtruth.txt")

Row = tuple[str, str, str]


def normal_id(video_id: str) -> str:
    """``123.mp4`` of ``123``, ``123.mp4`` and ``123.webm``; anything else stays as it is."""
    match = _ID.fullmatch(video_id)
    return f"{match[1]}.mp4" if match else video_id


def read_svd(annotations: str | Path = "") -> Annotation:
    """SVD's ground truth.

    Args:
        annotations: a file of lines "query video 0|1" (or one as shipped), or the published folder "metadata" with
            test_groundtruth and, to search in the unlabelled videos too, unlabeled-data-id. Default: the shipped
            judgements, without unlabelled videos.

    Raises:
        UsageError: the file cannot be read or is not built like the published one.
    """
    path = Path(annotations)
    log = ProblemLog()
    unlabeled: tuple[str, ...] = ()
    sources: list[Source] = []
    if annotations and path.is_dir():
        truth = next((path / name for name in _TRUTH if (path / name).is_file()), None)
        if truth is None:
            raise UsageError(f"--annotations {path} holds no {_TRUTH[0]}")
        rows = _lines(truth, log)
        sources.append(Source(truth.name, sha256_file(truth)))
        for name in _UNLABELED:
            if (path / name).is_file():
                listed = (normal_id(line) for _, line in numbered_lines(path / name))
                unlabeled = each_once(listed, log, "unlabelled videos listed twice")
                sources.append(Source(name, sha256_file(path / name)))
                break
    elif not annotations or path.name.lower().endswith(".json.xz"):
        content = read_content(path) if annotations else shipped("svd")
        try:
            rows = [(normal_id(q), normal_id(v), str(label)) for q, v, label in content.value]
        except (TypeError, ValueError) as error:
            raise wrong_structure(content.path, error) from error
        sources.append(content.source)
    else:
        rows = _lines(path, log)
        sources.append(Source(path.name, sha256_file(path)))
    return _annotation(rows, unlabeled, tuple(sources), log)


def _lines(path: Path, log: ProblemLog) -> list[Row]:
    rows = []
    for number, line in numbered_lines(path):
        fields = line.split()
        if len(fields) == 3 and all(_ID.fullmatch(field) for field in fields[:2]) and fields[2] in (POSITIVE, NEGATIVE):
            rows.append((normal_id(fields[0]), normal_id(fields[1]), fields[2]))
        else:
            log.add(
                "lines that are no judgement (query video 0|1); left out", f"{path.name}, line {number}: {line[:80]}"
            )
    if not rows:
        raise UsageError(f"--annotations {path} holds no line of the form <query>.mp4 <video>.mp4 <0|1>")
    return rows


def _annotation(
    rows: Iterable[Row], unlabeled: tuple[str, ...], sources: tuple[Source, ...], log: ProblemLog
) -> Annotation:
    judged: dict[str, dict[str, str]] = {}
    for query, video_id, label in rows:
        of_query = judged.setdefault(query, {})
        if of_query.get(video_id, label) != label:
            log.add("pairs judged both ways; the last judgement counts", f"{query} {video_id}")
        elif video_id in of_query:
            log.add("pairs judged twice alike; they count once", f"{query} {video_id}")
        of_query[video_id] = label
        if query == video_id:
            log.add("queries that are judged against themselves", query)
    labels = {
        query: {label: tuple(v for v, judgement in of_query.items() if judgement == label) for label in ("1", "0")}
        for query, of_query in judged.items()
    }
    named = dict.fromkeys(video_id for of_query in judged.values() for video_id in of_query)
    both = [video_id for video_id in unlabeled if video_id in named]
    log.add_all("unlabelled videos that are judged all the same; taken as judged", both)
    background = frozenset(unlabeled) - frozenset(both)
    return Annotation(
        dataset="SVD",
        version="with unlabelled videos" if background else "labelled videos only",
        queries=tuple(judged),
        database=(*named, *(video_id for video_id in unlabeled if video_id in background)),
        labels=labels,
        judged_only=True,
        unlabeled=background,
        problems=log.problems,
        sources=sources,
        normal_id=normal_id,
    )
