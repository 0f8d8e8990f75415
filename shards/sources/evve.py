"""EVVE: retrieval of events (Revaud, Douze, Schmid and Jegou, CVPR 2013).

Published at pascal.inrialpes.fr/data2/evve: 13 events, 620 queries and 2,375 database videos, each named by its id of
YouTube; annots/<event>.dat has lines "id label split" (label 1: of the event, -1: not, 0: unclear; split: query or
database).
The evve.pickle of ViSiL, DnS, TCA and S2VS holds the queries and the positives.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from ...core.errors import UsageError
from .annotation_files import LineReport, read_pickle, wrong_structure
from .annotation_tables import PairRows, videos_table
from .dataset import DataSet, account, identify, scan, without_extension, youtube_id
from .inputs import Found, SourceOptions

EVVE = DataSet(
    layout="evve",
    tree="<YouTube id>.<extension> at any depth, annots/<event>.dat or evve.pickle",
    usual=re.compile(r"(?:.*/)?annots?/[^/]+\.dat|(?:.*/)?evve[^/]*\.(?:pickle|pkl)", re.I),
    names=re.compile(r"[^/]+\.dat|evve[^/]*\.(?:pickle|pkl)", re.I),
    normal_id=youtube_id,
)


@dataclass
class _Event:
    """Ids of an event: its queries, and its database videos by what was judged."""

    queries: list[str] = field(default_factory=list)
    positives: list[str] = field(default_factory=list)
    negatives: list[str] = field(default_factory=list)
    unclear: list[str] = field(default_factory=list)


def find_evve(source: Path, options: SourceOptions) -> Found:
    """The videos; missing is what the annotation names and no file bears.

    Raises:
        UsageError: the folder or an annotation is not what it should be.
    """
    found = scan(source, EVVE, options)
    files = identify(found, options)
    events: dict[str, _Event] = {}
    wanted: dict[str, str] = {}
    facts: dict[str, dict[str, str]] = {}
    pickles = [path for path in found.annotations if path.suffix.lower() in (".pickle", ".pkl")]
    lists = [path for path in found.annotations if path.suffix.lower() == ".dat"]
    for path in found.annotations:
        if path not in pickles and path not in lists:
            raise UsageError(f"annotations: {path} is neither an <event>.dat nor evve.pickle")
    for path in lists:
        event = events[path.stem] = _read_event(path)
        for video_id in event.queries + event.positives + event.negatives + event.unclear:
            wanted.setdefault(video_id, path.name)
    if not lists:  # the lists say more
        for path in pickles[:1]:
            events, wanted = _read_pickle(path)
    same, other = PairRows(), PairRows()
    for name, event in events.items():
        for query in event.queries:
            for video_id in event.positives:
                same.add(query, video_id, name)
            for video_id in event.negatives:
                other.add(query, video_id, name)
        for ids, judged in ((event.positives, "1"), (event.negatives, "-1"), (event.unclear, "0")):
            for video_id in ids:
                facts.setdefault(video_id, {"event": name, "role": "database", "judged": judged})
        for video_id in event.queries:
            facts[video_id] = {"event": name, "role": "query", "judged": "1"}
    for video_id in wanted:
        facts.setdefault(video_id, {"role": "database"})
    result = Found(account(found, files, wanted, options), found.ignored)
    ids = [*facts, *(one.stem_id for one in result.candidates)]
    result.tables["videos"] = videos_table(ids, ("event", "role", "judged"), facts)
    if events:
        result.tables["pairs"] = same.pairs(EVVE.layout)
    if len(other):
        result.tables["negatives"] = other.judged(EVVE.layout)
    return result


def _read_event(path: Path) -> _Event:
    event = _Event()
    report = LineReport(path, "<YouTube id> <1|0|-1> <query|database>")
    for number, line in report.lines():
        fields = line.split()
        video_id = youtube_id(without_extension(fields[0]))
        if len(fields) != 3 or video_id is None or fields[1] not in ("1", "0", "-1"):
            report.drop(number, line)
        elif fields[2].lower() == "query":
            event.queries.append(video_id)
        else:
            {"1": event.positives, "0": event.unclear, "-1": event.negatives}[fields[1]].append(video_id)
    report.close()
    return event


def _read_pickle(path: Path) -> tuple[dict[str, _Event], dict[str, str]]:
    content = read_pickle(path, "annotation", "queries", "database")
    try:
        events = {
            str(name): _Event(*(sorted(filter(youtube_id, ids)) for ids in (queries, positives, (), unclear)))
            for name, (queries, positives, unclear) in sorted(content["annotation"].items())
        }
        ids = [*content["queries"], *content["database"]]
        return events, {video_id: path.name for video_id in ids if youtube_id(video_id)}
    except (TypeError, ValueError, AttributeError) as error:
        raise wrong_structure(path, error) from error
