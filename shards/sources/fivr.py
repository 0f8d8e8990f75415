"""FIVR-200K and FIVR-5K: fine-grained incident video retrieval (Kordopatis-Zilos et al., IEEE TMM 2019).

Published at github.com/MKLab-ITI/FIVR-200K (annotation.json, youtube_ids.txt); the older annotation, on which the
figures of ViSiL, TCA and DnS rest, is the fivr.pickle of github.com/mever-team/distill-and-select.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from ...core.errors import UsageError
from .annotation_files import read_json, read_pickle, wrong_structure
from .annotation_tables import PairRows, videos_table
from .dataset import DataSet, Scan, VideoFile, account, identify, read_ids, scan, some, youtube_id
from .inputs import Found, SourceOptions

logger = logging.getLogger(__name__)


def _id_text(video: VideoFile) -> str:
    """Both published conventions: the id is the file's name, or that of its folder."""
    return video.folders[-1] if video.stem == "video" and video.folders else video.stem


_NAMES = r"(?:fivr_)?annotations?\.json|fivr[^/]*\.(?:pickle|pkl)|youtube_ids\.txt"

FIVR = DataSet(
    layout="fivr",
    tree="<YouTube id>.<extension> or <YouTube id>/video.<extension>; annotation.json, fivr.pickle, youtube_ids.txt",
    usual=re.compile(f"(?:.*/)?(?:{_NAMES})", re.I),
    names=re.compile(_NAMES, re.I),
    normal_id=youtube_id,
    id_text=_id_text,
)

FIVR_5K = replace(FIVR, layout="fivr5k", tree=FIVR.tree + " (fivr.pickle, or --ids, says which are the 5K)")

Annotation = dict[str, dict[str, list[str]]]
"""By query and label the ids of the videos."""


@dataclass
class _Lists:
    """What the annotation files say.

    Attributes:
        annotation: of the one version that is used.
        named: by id the list that names it.
        roles: by version ("5k", "200k") the role of each id, "query" or "database"; from the pickle.
    """

    annotation: Annotation = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    roles: dict[str, dict[str, str]] = field(default_factory=dict)


def find_fivr(source: Path, options: SourceOptions) -> Found:
    """FIVR-200K: every id of youtube_ids.txt or the pickle, else of the annotation, that has no file is missing.

    Raises:
        UsageError: the folder or an annotation is not what it should be.
    """
    found = scan(source, FIVR, options)
    files = identify(found, options)
    lists = _read(found)
    result = Found(account(found, files, lists.named, options), found.ignored)
    if lists.annotation or lists.roles:
        result.tables["videos"] = _videos([one.stem_id for one in result.candidates], lists)
    if lists.annotation:
        result.tables["pairs"] = _pairs(lists.annotation, FIVR.layout)
    return result


def find_fivr5k(source: Path, options: SourceOptions) -> Found:
    """FIVR-5K, a part of FIVR-200K: its queries, database and pairs; other files of the folder are left out.

    Raises:
        UsageError: as `find_fivr`; or the pickle, which says which videos belong to the part, is not there.
    """
    found = scan(source, FIVR_5K, options)
    files = identify(found, options)
    lists = _read(found)
    part = lists.roles.get("5k")
    if part is None:
        raise UsageError(
            "annotations: the layout fivr5k needs fivr.pickle, which says which videos FIVR-5K has; give it with "
            "--annotations, or take the layout fivr with a list of ids"
        )
    mine = [(video_id, video) for video_id, video in files if video_id in part]
    if not mine:
        raise found.wrong_folder("has no video of FIVR-5K")
    if len(mine) < len(files):
        logger.info("fivr5k: %d video files are left out, they are not of FIVR-5K", len(files) - len(mine))
    lists.annotation = {
        query: {label: [video_id for video_id in ids if video_id in part] for label, ids in labels.items()}
        for query, labels in lists.annotation.items()
        if part.get(query) == "query"
    }
    lists.roles = {"5k": part}
    result = Found(account(found, mine, dict.fromkeys(sorted(part), "fivr.pickle (5k)"), options), found.ignored)
    result.tables["videos"] = _videos([one.stem_id for one in result.candidates], lists)
    result.tables["pairs"] = _pairs(lists.annotation, FIVR_5K.layout)
    return result


def _read(found: Scan) -> _Lists:
    lists = _Lists()
    annotations: dict[Path, Annotation] = {}
    for path in found.annotations:
        suffix = path.suffix.lower()
        if suffix == ".json":
            annotations[path] = _checked(path, read_json(path))
        elif suffix in (".pickle", ".pkl"):
            content = read_pickle(path, "annotation")
            annotations[path] = _checked(path, content["annotation"])
            try:
                for version in sorted({"5k", "200k"} & set(content)):
                    database, queries = (
                        sorted(filter(youtube_id, content[version][key])) for key in ("database", "queries")
                    )
                    lists.roles[version] = dict.fromkeys(database, "database") | dict.fromkeys(queries, "query")
            except (KeyError, TypeError) as error:
                raise wrong_structure(path, error) from error
            lists.named |= dict.fromkeys(lists.roles.get("200k", ()), path.name)
        elif suffix == ".txt":
            lists.named |= dict.fromkeys(read_ids(path, youtube_id), path.name)
        else:
            raise UsageError(f"annotations: {path} is none of annotation.json, fivr.pickle and youtube_ids.txt")
    if annotations:
        lists.annotation = _one_version(annotations, lists)
    return lists


def _one_version(annotations: dict[Path, Annotation], lists: _Lists) -> Annotation:
    """The versions differ (DA has real ids in the newer, IS others), and are never mixed; annotation.json wins."""
    chosen = min(annotations, key=lambda path: path.suffix.lower() != ".json")
    others = [str(path) for path in annotations if path != chosen]
    if others:
        text = "fivr: pairs come from %s, not from %s; for those, give that file alone with --annotations"
        logger.warning(text, chosen, some(others))
    else:
        logger.info("fivr: pairs come from %s", chosen)
    if not lists.named:
        for query, labels in annotations[chosen].items():
            for video_id in (query, *(video_id for ids in labels.values() for video_id in ids)):
                lists.named.setdefault(video_id, chosen.name)
    return annotations[chosen]


def _checked(path: Path, content: object) -> Annotation:
    """The annotation without what is no id, which is counted in the log."""
    checked: Annotation = {}
    bad: Counter[str] = Counter()
    if not isinstance(content, Mapping):
        raise UsageError(f"annotations: {path} should hold a dict of queries, it holds a {type(content).__name__}")
    for query, labels in content.items():
        if not isinstance(query, str) or not youtube_id(query):
            bad["queries"] += 1
            continue
        if not isinstance(labels, Mapping):
            raise UsageError(
                f"annotations: {path}: {query} should have a dict of labels, it has {type(labels).__name__}"
            )
        for label, ids in labels.items():
            if not isinstance(ids, Iterable) or isinstance(ids, str):
                raise UsageError(f"annotations: {path}: {query}, {label} should have a list of ids")
            listed = list(ids)
            good = [video_id for video_id in listed if isinstance(video_id, str) and youtube_id(video_id)]
            bad[str(label)] += len(listed) - len(good)
            checked.setdefault(query, {})[str(label)] = good
    if not checked:
        raise UsageError(
            f"annotations: {path} names no query of FIVR; give the published annotation.json or fivr.pickle"
        )
    if bad := +bad:
        listed_bad = ", ".join(f"{label} {n}" for label, n in sorted(bad.items()))
        logger.warning(
            "annotations: %s: %d entries are no YouTube ids and are left out: %s", path, bad.total(), listed_bad
        )
    return checked


def _videos(ids: list[str], lists: _Lists) -> pa.Table:
    facts: dict[str, dict[str, str]] = {}
    for version in ("5k", "200k"):  # roles are those of the 200K where it is known
        for video_id, role in lists.roles.get(version, {}).items():
            facts.setdefault(video_id, {"subset": version})["role"] = role
    for video_id in lists.named:
        facts.setdefault(video_id, {"role": "database", "subset": ""})
    for query in lists.annotation:
        facts.setdefault(query, {"subset": ""})["role"] = "query"
    return videos_table([*ids, *lists.annotation], ("role", "subset"), facts)


def _pairs(annotation: Annotation, layout: str) -> pa.Table:
    rows = PairRows()
    for query, labels in annotation.items():
        for label, ids in labels.items():
            for video_id in ids:
                rows.add(query, video_id, label)
    return rows.pairs(layout)
