"""SVD: near-duplicate short videos (Jiang et al., ICCV 2019).

Published at svdbase.github.io: videos/<id>.mp4 (562,013 files), metadata with lists of ids and the files
{train,test}_groundtruth, lines "query.mp4 candidate.mp4 0|1". The published lists write an id with its ".mp4", so ids
are written so here, whatever a file's extension is.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...core.errors import UsageError
from .annotation_files import LineReport
from .annotation_tables import PairRows, videos_table
from .dataset import DataSet, account, identify, read_ids, scan, without_extension
from .inputs import Found, SourceOptions

_ROLES = {
    "query-id": "query",
    "labeled-data-id": "labeled",
    "unlabeled-data-id": "unlabeled",
    "probable-negative-unlabeled-data-id": "probable-negative",
    "all-video-id": "",
}
_TRUTH = re.compile(r"(?:.*[_-])?(train|test)_groundtruth")
_NAMES = rf"(?:(?:{'|'.join(_ROLES)})|[^/]*(?:train|test)_groundtruth)(?:\.txt)?"


def _svd_id(text: str) -> str | None:
    digits = without_extension(text)
    return f"{digits}.mp4" if digits.isascii() and digits.isdecimal() else None


SVD = DataSet(
    layout="svd",
    tree="videos/<number>.mp4, metadata/<all-video-id, query-id, labeled-data-id, unlabeled-data-id, "
    "{train,test}_groundtruth>",
    usual=re.compile(f"(?:.*/)?{_NAMES}", re.I),
    names=re.compile(_NAMES, re.I),
    normal_id=_svd_id,
)


def find_svd(source: Path, options: SourceOptions) -> Found:
    """The videos; missing is what a list or a ground truth names and no file bears.

    Raises:
        UsageError: the folder or an annotation is not what it should be.
    """
    found = scan(source, SVD, options)
    files = identify(found, options)
    wanted: dict[str, str] = {}
    facts: dict[str, dict[str, str]] = {}
    same, other = PairRows(), PairRows()
    for path in sorted(found.annotations, key=_rank):
        name = _list_name(path)
        if match := _TRUTH.fullmatch(name):
            ids = _read_truth(path, match[1], same, other, facts)
        elif name in _ROLES:
            ids = read_ids(path, SVD.normal_id)
            for video_id in ids if _ROLES[name] else ():
                facts.setdefault(video_id, {}).setdefault("role", _ROLES[name])
        else:
            raise UsageError(f"annotations: {path} is none of {', '.join(_ROLES)} and {{train,test}}_groundtruth")
        for video_id in ids:
            wanted.setdefault(video_id, path.name)
    result = Found(account(found, files, wanted, options), found.ignored)
    ids = [*facts, *(one.stem_id for one in result.candidates)]
    result.tables["videos"] = videos_table(ids, ("role", "split"), facts)
    if len(same) or len(other):
        result.tables["pairs"] = same.pairs(SVD.layout)
        result.tables["negatives"] = other.judged(SVD.layout)
    return result


def _list_name(path: Path) -> str:
    return path.name.lower().removesuffix(".txt")


def _rank(path: Path) -> int:
    """Ground truths first, then the lists as in `_ROLES`: of two roles the first counts."""
    name = _list_name(path)
    return list(_ROLES).index(name) if name in _ROLES else -1


def _read_truth(path: Path, split: str, same: PairRows, other: PairRows, facts: dict[str, dict[str, str]]) -> list[str]:
    """Add the judged pairs; returns the ids in them, which get their role and split."""
    ids: dict[str, None] = {}
    report = LineReport(path, "<query>.mp4 <candidate>.mp4 <0|1>")
    for number, line in report.lines():
        fields = line.split()
        query, video = (_svd_id(field) for field in fields[:2]) if len(fields) == 3 else (None, None)
        if query is None or video is None or fields[2] not in ("0", "1"):
            report.drop(number, line)
            continue
        (same if fields[2] == "1" else other).add(query, video, fields[2])
        ids |= {query: None, video: None}
        facts.setdefault(query, {})["role"] = "query"
        facts[query]["split"] = split
        facts.setdefault(video, {}).setdefault("role", "labeled")
        facts[video].setdefault("split", split)
    report.close()
    return list(ids)
