"""VCDB (Jiang, Jiang and Wang, ECCV 2014) as the vcdb.pickle of TCA lists it: 528 core videos, each a query, searched
in the core and 99,778 background videos, or (VCDB-CORE) in the core alone. Positives are the partners of annotated
pairs, in both directions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from ...core.errors import UsageError
from ...shards.sources.annotation_files import wrong_structure
from .annotation import Annotation, ProblemLog, each_once
from .content import read_content, shipped

COPY = "copy"
_CORE = re.compile(r"[0-9a-f]{40}")


def read_vcdb(*, distractors: bool, annotations: str | Path = "") -> Annotation:
    """VCDB's ground truth.

    Args:
        distractors: whether the background videos are in the database.
        annotations: a file built like vcdb.pickle. Default: the shipped one.

    Raises:
        UsageError: the file cannot be read or is not built like the published one.
    """
    content = read_content(annotations, "index", "video_pairs") if annotations else shipped("vcdb")
    log = ProblemLog()
    try:
        index = each_once(_texts(content.value["index"]), log, "ids listed twice in the index")
        pairs = [(*_texts(pair["videos"]), pair.get("overlap", ())) for pair in content.value["video_pairs"]]
        core = tuple(video_id for video_id in index if _CORE.fullmatch(video_id))
        partners = _partners(pairs, set(core), log)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong_structure(content.path, error) from error
    if not core:
        raise UsageError(f"--annotations {content.path} names no core video (an id of 40 hexadecimal digits)")
    return Annotation(
        dataset="VCDB" if distractors else "VCDB-CORE",
        version="",
        queries=core,
        database=index if distractors else core,
        labels={query: {COPY: tuple(partners[query])} for query in core if query in partners},
        problems=log.problems,
        sources=(content.source,),
    )


def _texts(ids: Iterable[object]) -> list[str]:
    found = list(ids)
    for video_id in found:
        if not isinstance(video_id, str) or not video_id:
            raise TypeError(f"{video_id!r} stands where an id should")
    return [str(video_id) for video_id in found]


def _partners(pairs: Iterable[tuple], core: set[str], log: ProblemLog) -> Mapping[str, dict[str, None]]:
    partners: dict[str, dict[str, None]] = {}
    for a, b, overlap in pairs:
        name = f"{a} {b}"
        unknown = [video_id for video_id in (a, b) if video_id not in core]
        if unknown:
            log.add_all("ids of pairs that are no core video; the pair is left out", unknown)
            continue
        if a == b:
            log.add("pairs of a video with itself; left out", name)
            continue
        if b in partners.get(a, {}):
            log.add("pairs listed twice; they count once", name)
        if any(not 0 <= share <= 1 for share in overlap):
            log.add("pairs with an overlap outside 0 to 1; the pair is kept", name)
        partners.setdefault(a, {})[b] = None
        partners.setdefault(b, {})[a] = None
    return partners
