"""FIVR-5K and FIVR-200K (Kordopatis-Zilos et al., IEEE TMM 2019): fine-grained incident video retrieval.

There are two annotations of the same 225,960 videos. The figures of TCA, ViSiL and DnS rest on the old one, the
fivr.pickle of DnS; the new one is annotation.json of the data set's own repository. Only the pickle says which videos
are FIVR-5K, so the lists of queries and videos always come from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ...core.errors import UsageError
from ...shards.sources.annotation_files import wrong_structure
from ...shards.sources.dataset import youtube_id
from .annotation import Annotation, ProblemLog, each_once
from .content import Content, read_content, shipped

LABELS = ("ND", "DS", "CS", "IS")
"""Near duplicates, duplicate scene, complementary scene, incident scene."""
AUDIO = "DA"
"""Duplicate audio: read and checked, used by no measure here."""


def read_fivr(part: str, annotations: str | Path = "old") -> Annotation:
    """FIVR's ground truth.

    Args:
        part: "5k" or "200k".
        annotations: "old", "new", or a file (fivr.pickle, annotation.json, or one as shipped).

    Raises:
        UsageError: the file cannot be read or is not built like a published one.
    """
    old = shipped("fivr_old")
    if annotations == "old":
        chosen = old
    elif annotations == "new":
        chosen = shipped("fivr_new")
    else:
        chosen = read_content(annotations)
    lists = chosen if isinstance(chosen.value, Mapping) and {"5k", "200k"} <= set(chosen.value) else old
    result = _read(part, lists, chosen)
    if str(annotations) in ("old", "new"):
        return replace(result, version=str(annotations))
    for version in ("old", "new"):
        if result.sha256 == read_fivr(part, version).sha256:
            return replace(result, version=version)
    return replace(result, version="file")


def _read(part: str, lists: Content, chosen: Content) -> Annotation:
    log = ProblemLog()
    try:
        queries = _ids(lists.value[part]["queries"], log, "queries")
        database = _ids(lists.value[part]["database"], log, "database")
    except (KeyError, TypeError, AttributeError) as error:
        raise wrong_structure(lists.path, error) from error
    by_query = chosen.value.get("annotation", chosen.value) if isinstance(chosen.value, Mapping) else None
    if not isinstance(by_query, Mapping):
        raise UsageError(f"--annotations {chosen.path} should hold a dict of queries")
    in_database = set(database)
    in_part = in_database.union(queries)
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    for query in queries:
        if query not in by_query:
            log.add("queries that the annotation does not speak of", query)
            continue
        labels[query] = _labels(query, by_query[query], chosen.path, log)
    if not labels:
        raise UsageError(
            f"--annotations {chosen.path} speaks of none of the {len(queries)} queries of FIVR-{part.upper()}; give "
            "the published annotation.json or fivr.pickle"
        )
    log.add_all("annotated queries that the list of queries lacks", _strangers(part, by_query, queries, lists))
    if part == "200k":
        _log_absent(labels, in_database, log)
    for query, of_query in labels.items():
        labels[query] = {label: tuple(v for v in ids if v in in_part) for label, ids in of_query.items()}
        if any(query in ids for label, ids in of_query.items() if label in LABELS):
            log.add("queries that stand in their own list", query)
    sources = (chosen.source,) if lists is chosen else (chosen.source, lists.source)
    return Annotation(
        dataset=f"FIVR-{part.upper()}",
        version="",
        queries=queries,
        database=database,
        labels=labels,
        problems=log.problems,
        sources=sources,
    )


def _ids(listed: Iterable[object], log: ProblemLog, where: str) -> tuple[str, ...]:
    good = []
    for video_id in sorted(listed, key=str) if isinstance(listed, (set, frozenset)) else listed:
        if isinstance(video_id, str) and youtube_id(video_id):
            good.append(video_id)
        else:
            log.add(f"entries of the {where} that are no video id", str(video_id))
    return each_once(good, log, f"ids listed twice in the {where}")


def _labels(query: str, of_query: object, path: Path, log: ProblemLog) -> dict[str, tuple[str, ...]]:
    if not isinstance(of_query, Mapping):
        raise UsageError(f"--annotations {path}: {query} should have a dict of labels, not {type(of_query).__name__}")
    labels = {}
    for label, ids in of_query.items():
        if not isinstance(ids, Iterable) or isinstance(ids, (str, Mapping)):
            raise UsageError(f"--annotations {path}: {query}, {label} should have a list of ids")
        if label not in (*LABELS, AUDIO):
            log.add(f"labels other than {', '.join((*LABELS, AUDIO))}; left out", f"{query} {label}")
            continue
        good = []
        for video_id in ids:
            if isinstance(video_id, str) and youtube_id(video_id):
                good.append(video_id)
            else:
                log.add(f"entries under {label} that are no video id; left out", f"{query}: {video_id}")
        labels[label] = each_once(good, log, f"ids listed twice under {label}")
    return labels


def _strangers(part: str, by_query: Mapping[str, object], queries: tuple[str, ...], lists: Content) -> list[str]:
    """Annotated queries of neither this part nor the whole."""
    known = set(queries)
    if part == "5k":
        known.update(query for query in lists.value["200k"]["queries"] if isinstance(query, str))
    return [str(query) for query in by_query if query not in known]


def _log_absent(labels: Mapping[str, Mapping[str, tuple[str, ...]]], database: set[str], log: ProblemLog) -> None:
    for query, of_query in labels.items():
        absent = {v for label in LABELS for v in of_query.get(label, ()) if v not in database}
        log.add_all(
            "positives that the database lacks; left out", (f"{query}: {video_id}" for video_id in sorted(absent))
        )
