"""CC_WEB_VIDEO (Wu, Hauptmann and Ngo, ACM MM 2007): 24 queries, 13,115 videos, near duplicates of each query.

Judgements name videos by number. A number without a video stays in the labels as "#number": nothing can be found for
it, so it is no positive of the corrected protocol; the published code counts it. Ids are spelled "1_1_Y" (TCA) or
"1/1_1_Y" (ViSiL, DnS, S2VS); both are understood, here they are written in the first way.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...shards.sources.annotation_files import wrong_structure
from .annotation import Annotation, ProblemLog, each_once
from .content import Content, read_content, shipped

POSITIVE = ("E", "S", "L", "M", "V")
"""Exactly duplicate, similar, long version, major change, other version; X is dissimilar."""


def normal_id(video_id: str) -> str:
    """``1_1_Y``, also of ``1/1_1_Y``."""
    return video_id.rpartition("/")[2]


def read_cc_web_video(annotations: str | Path = "") -> Annotation:
    """CC_WEB_VIDEO's ground truth.

    Args:
        annotations: a file built like either published cc_web_video.pickle. Default: the shipped one.

    Raises:
        UsageError: the file cannot be read or is not built like a published one.
    """
    keys = ("index", "queries", "ground_truth", "excluded")
    content = read_content(annotations, *keys) if annotations else shipped("cc_web_video")
    log = ProblemLog()
    try:
        return _read(content, log)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise wrong_structure(content.path, error) from error


def _read(content: Content, log: ProblemLog) -> Annotation:
    value = content.value
    # in the one flavour "index" is a list of names with holes and repeats, beside "vid2index"; in the other a dict
    numbers: Mapping[str, Any] = value["vid2index"] if "vid2index" in value else value["index"]
    ids = {int(number): normal_id(name) for name, number in numbers.items()}
    _log_repeats(value["index"], ids, log)
    queries = each_once((normal_id(name) for name in value["queries"]), log, "queries listed twice")
    if not len(queries) == len(value["ground_truth"]) == len(value["excluded"]):
        raise ValueError(
            f"{len(queries)} queries, {len(value['ground_truth'])} ground truths and {len(value['excluded'])} lists of "
            "excluded videos"
        )
    database = each_once(ids.values(), log, "videos listed twice")
    known = set(database)
    log.add_all("queries that the database lacks", (query for query in queries if query not in known))
    labels: dict[str, dict[str, tuple[str, ...]]] = {}
    excluded: dict[str, frozenset[str]] = {}
    for place, query in enumerate(queries):
        by_label: dict[str, list[str]] = {}
        for number, label in value["ground_truth"][place].items():
            name = ids.get(int(number), f"#{int(number)}")
            if name.startswith("#"):
                log.add("judged numbers without a video", f"set {place + 1}: {number} {label}")
            if label != label.upper():
                log.add("labels in lower case; read as upper case", f"set {place + 1}: {name} {label}")
            by_label.setdefault(label.upper(), []).append(name)
        labels[query] = {label: tuple(names) for label, names in by_label.items()}
        excluded[query] = frozenset(ids.get(int(n), f"#{int(n)}") for n in value["excluded"][place])
    return Annotation(
        dataset="CC_WEB_VIDEO",
        version="",
        queries=queries,
        database=database,
        labels=labels,
        excluded=excluded,
        problems=log.problems,
        sources=(content.source,),
        normal_id=normal_id,
    )


def _log_repeats(index: Any, ids: Mapping[int, str], log: ProblemLog) -> None:
    """The flavour that lists names by number has numbers whose name another number bears too."""
    if isinstance(index, list):
        for number, name in enumerate(index):
            if name and number not in ids:
                log.add("names with two numbers; the number of the index counts", f"{name}: {number}")
