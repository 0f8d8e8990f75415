"""EVVE (Revaud, Douze, Schmid and Jegou, CVPR 2013): 13 events, 620 queries, 2,373 videos to search in, apart from
the queries. Positives are the videos of the query's event."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...shards.sources.annotation_files import wrong_structure
from ...shards.sources.dataset import youtube_id
from .annotation import Annotation, ProblemLog, each_once
from .content import Content, read_content, shipped

EVENT = "event"


def read_evve(annotations: str | Path = "") -> Annotation:
    """EVVE's ground truth.

    Args:
        annotations: a file built like evve.pickle. Default: the shipped one.

    Raises:
        UsageError: the file cannot be read or is not built like the published one.
    """
    content = read_content(annotations, "annotation", "queries", "database") if annotations else shipped("evve")
    try:
        return _read(content, ProblemLog())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong_structure(content.path, error) from error


def _read(content: Content, log: ProblemLog) -> Annotation:
    queries = each_once(_ids(content.value["queries"], "queries", log), log, "queries listed twice")
    database = each_once(_ids(content.value["database"], "database", log), log, "videos listed twice")
    known = set(database)
    log.add_all("videos that are both a query and in the database", (query for query in queries if query in known))
    event_of: dict[str, str] = {}
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    unclear: dict[str, frozenset[str]] = {}
    for event, (members, positives, null) in sorted(content.value["annotation"].items()):
        found = tuple(sorted(set(_ids(positives, event, log))))
        log.add_all("positives that the database lacks; left out", (f"{event}: {v}" for v in found if v not in known))
        found = tuple(video_id for video_id in found if video_id in known)
        neither = frozenset(_ids(null, event, log))
        for query in sorted(set(_ids(members, event, log))):
            if query in event_of:
                log.add("queries of two events; the first counts", f"{query}: {event_of[query]}, {event}")
                continue
            event_of[query] = str(event)
            labels[query] = {EVENT: found}
            if neither:
                unclear[query] = neither
    log.add_all("queries of no event", (query for query in queries if query not in event_of))
    listed = set(queries)
    log.add_all("queries of events that the list of queries lacks", (q for q in sorted(event_of) if q not in listed))
    return Annotation(
        dataset="EVVE",
        version="",
        queries=tuple(query for query in queries if query in event_of),
        database=database,
        labels={query: labels[query] for query in queries if query in labels},
        unclear={query: unclear[query] for query in queries if query in unclear},
        groups={query: event_of[query] for query in queries if query in event_of},
        problems=log.problems,
        sources=(content.source,),
    )


def _ids(listed: Iterable[object], where: str, log: ProblemLog) -> list[str]:
    good = []
    for video_id in sorted(listed, key=str) if isinstance(listed, (set, frozenset)) else listed:
        if isinstance(video_id, str) and youtube_id(video_id):
            good.append(video_id)
        else:
            log.add("entries that are no video id; left out", f"{where}: {video_id}")
    return good
