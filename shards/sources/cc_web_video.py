"""CC_WEB_VIDEO: near-duplicate web videos (Wu, Hauptmann and Ngo, ACM MM 2007).

Published at vireo.cs.cityu.edu.hk/webvideo: 24 sets of videos, Video_List.txt with their numbers and names, Seed.txt
with the queries' numbers, and a GT file for each set that judges numbers. Two pickles with the same content are around,
of github.com/MKLab-ITI/visil (ids like 1/1_1_Y) and github.com/xwen99/temporal_context_aggregation (1_1_Y).
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.errors import UsageError
from .annotation_files import LineReport, read_pickle, whole_number, wrong_structure
from .annotation_tables import PairRows, videos_table
from .dataset import DataSet, account, identify, scan, without_extension
from .inputs import Found, SourceOptions

logger = logging.getLogger(__name__)

_ID = re.compile(r"(\d{1,2})_\d+_[A-Za-z]")  # the last letter: Y YouTube, G Google, H Yahoo
_GT = re.compile(r"gt_?(\d{1,2})\.rst", re.I)
_NAMES = r"gt_?\d{1,2}\.rst|seed\.txt|video_list\.txt|cc_web[^/]*\.(?:pickle|pkl)"
_SAME = frozenset("ESVML")
_OTHER = "X"


def _cc_web_id(text: str) -> str | None:
    """``1_1_Y``, also of ``1/1_1_Y``: the file's name, which is unique."""
    name = text.rpartition("/")[2]
    return name if _ID.fullmatch(name) else None


CC_WEB_VIDEO = DataSet(
    layout="cc_web_video",
    tree="Videos/<set>/<set>_<n>_<Y|G|H>.<extension> (or without the folders of sets), Video_List.txt, Seed.txt, "
    "GT/GT_<set>.rst",
    usual=re.compile(f"(?:.*/)?(?:{_NAMES})", re.I),
    names=re.compile(_NAMES, re.I),
    normal_id=_cc_web_id,
)


@dataclass
class _Judged:
    """What the annotation says: ids by number; by set its query, labels by number, and the numbers to leave out."""

    ids: dict[int, str] = field(default_factory=dict)
    queries: dict[int, str] = field(default_factory=dict)
    labels: dict[int, dict[int, str]] = field(default_factory=dict)
    excluded: dict[int, list[int]] = field(default_factory=dict)
    source: str = ""


def find_cc_web_video(source: Path, options: SourceOptions) -> Found:
    """The videos of the 24 sets; missing is what Video_List.txt or a pickle names and no file bears.

    Raises:
        UsageError: the folder or an annotation is not what it should be.
    """
    found = scan(source, CC_WEB_VIDEO, options)
    files = identify(found, options)
    judged = _read(found.annotations)
    wanted = dict.fromkeys(judged.ids.values(), judged.source)
    result = Found(account(found, files, wanted, options), found.ignored)
    facts = {one.stem_id: {"set": one.stem_id.partition("_")[0]} for one in result.candidates}
    for number, video_id in judged.ids.items():
        facts.setdefault(video_id, {"set": video_id.partition("_")[0]})["number"] = str(number)
    for query in judged.queries.values():
        facts.setdefault(query, {"set": query.partition("_")[0]})["role"] = "query"
    result.tables["videos"] = videos_table(facts, ("set", "number", "role"), facts)
    if judged.labels:
        _tables(judged, result)
    return result


def _tables(judged: _Judged, result: Found) -> None:
    same, other, excluded = PairRows(), PairRows(), PairRows()
    nameless = Counter[str]()
    for number, labels in sorted(judged.labels.items()):
        query = judged.queries.get(number)
        if query is None:
            logger.warning("cc_web_video: no query is known for set %d, its judgements are left out", number)
            continue
        for index, label in labels.items():
            video_id = judged.ids.get(index)
            if video_id is None:
                nameless[label] += label in _SAME or label == _OTHER
            elif label in _SAME:
                same.add(query, video_id, label)
            elif label == _OTHER:
                other.add(query, video_id, label)
        for index in judged.excluded.get(number, ()):
            if index in judged.ids:
                excluded.add(query, judged.ids[index], labels.get(index, ""))
    if nameless := +nameless:
        listed = ", ".join(f"{label} {n}" for label, n in sorted(nameless.items()))
        logger.warning("cc_web_video: judgements of %d numbers without a video: %s", nameless.total(), listed)
    result.tables["pairs"] = same.pairs(CC_WEB_VIDEO.layout)
    result.tables["negatives"] = other.judged(CC_WEB_VIDEO.layout)
    if judged.excluded:
        result.tables["excluded"] = excluded.judged(CC_WEB_VIDEO.layout, "excluded")


def _read(paths: list[Path]) -> _Judged:
    """The published files; where they lack something, a pickle gives all of it."""
    judged = _Judged()
    seeds: list[Path] = []
    pickles: list[Path] = []
    for path in paths:
        name = path.name.lower()
        if name.endswith((".pickle", ".pkl")):
            pickles.append(path)
        elif match := _GT.fullmatch(name):
            judged.labels[int(match[1])] = _read_judgements(path)
        elif name == "video_list.txt":
            judged.ids = _read_names(path)
            judged.source = path.name
        elif name == "seed.txt":
            seeds.append(path)
        else:
            raise UsageError(f"annotations: {path} is none of Video_List.txt, Seed.txt, GT_<set>.rst and a pickle")
    for path in seeds:
        judged.queries = _read_seeds(path, judged.ids)
    complete = judged.ids and judged.queries and judged.labels
    if pickles and not complete:
        if len(pickles) > 1:
            logger.info("cc_web_video: of several pickles %s is read", pickles[0])
        return _read_pickle(pickles[0])
    if judged.labels and not complete:
        text = (
            "cc_web_video: the GT files name videos by number; without Video_List.txt and Seed.txt they give no pairs"
        )
        logger.warning(text)
        judged.labels = {}
    return judged


def _read_names(path: Path) -> dict[int, str]:
    """Video_List.txt: number, set, source, name, address between tabs; a few numbers have no name."""
    ids: dict[int, str] = {}
    report = LineReport(path, "<VideoID> <QueryID> <Source> <VideoName> <URL> between tabs")
    for number, line in report.lines():
        fields = [field.strip().strip('"') for field in line.split("\t")]
        if len(fields) == 1:  # copies exist whose tabs have become spaces
            fields = line.split()
        video_id = next(filter(None, (_cc_web_id(without_extension(field)) for field in fields[1:5])), None)
        index = whole_number(fields[0])
        if index is None or (video_id is None and len(fields) < 3):
            report.drop(number, line)
        elif video_id is not None:
            ids[index] = video_id
    report.close()
    # of two numbers with one name the last counts, as in the pickles
    last = {video_id: index for index, video_id in ids.items()}
    return {index: video_id for video_id, index in last.items()}


def _read_seeds(path: Path, ids: dict[int, str]) -> dict[int, str]:
    """Seed.txt: a set and the number, or the name, of its query."""
    queries: dict[int, str] = {}
    report = LineReport(path, "<set> <VideoID of its query>")
    for number, line in report.lines():
        fields = line.split()
        second = fields[1] if len(fields) > 1 else ""
        index = whole_number(second)
        query = ids.get(index) if index is not None else _cc_web_id(without_extension(second))
        set_number = whole_number(fields[0])
        if set_number is None or query is None:
            report.drop(number, line)
        else:
            queries[set_number] = query
    if ids:
        report.close()
    return queries


def _read_judgements(path: Path) -> dict[int, str]:
    labels: dict[int, str] = {}
    report = LineReport(path, "<VideoID> <E|S|V|M|L|X|-1>")
    for number, line in report.lines():
        fields = line.split()
        label = fields[1].upper() if len(fields) == 2 else ""
        index = whole_number(fields[0])
        if index is None or label not in (*_SAME, _OTHER, "-1"):
            report.drop(number, line)
        elif labels.setdefault(index, label) != label:
            report.drop(number, line, "the number was judged before")
    report.close()
    return labels


def _read_pickle(path: Path) -> _Judged:
    content = read_pickle(path, "index", "queries", "ground_truth")
    judged = _Judged(source=path.name)
    try:
        # in the one flavour "index" is a list of names with holes and repeats, beside "vid2index"; in the other a dict
        numbers: dict[str, Any] = content.get("vid2index") or content["index"]
        for name, index in numbers.items():
            if video_id := _cc_web_id(name):
                judged.ids[int(index)] = video_id
        for position, name in enumerate(content["queries"], 1):
            if video_id := _cc_web_id(name):
                judged.queries[position] = video_id
        for position, labels in enumerate(content["ground_truth"], 1):
            judged.labels[position] = {int(index): str(label).upper() for index, label in labels.items()}
        for position, indexes in enumerate(content.get("excluded", ()), 1):
            judged.excluded[position] = sorted(int(index) for index in indexes)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise wrong_structure(path, error) from error
    return judged
