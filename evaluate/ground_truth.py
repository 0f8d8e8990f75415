"""Which videos should be found for which query, read from a CSV, and how much of it the feature store covers.

Four headings are understood:

* ``query,video``: one relevant video per row; directed, exactly as written.
* ``video_id,group`` (or ``file,group``): all videos of a group are relevant to one another; an empty group is no group.
* ``copy_id,source_id``: edited copies; see :mod:`.copies`, which needs no more than the rows.

An id is looked up as written and, from a ``file`` column, also without its extension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..core.errors import ReelkinError, UsageError
from ..core.files import sha256_file
from ..core.tables import read_csv

SHOWN = 10
"""Ids listed in a message or a coverage line before "and N more"."""


@dataclass(frozen=True)
class GroundTruth:
    """Relevance as named by its source, before it meets a store.

    Attributes:
        relevant: for every query the ids that should be found; never itself.
        groups: the group of each query, where the source has groups; queries of a group succeed and fail together.
        columns: further columns of the source, ``column -> {query: value}``.
        duplicates: rows that were repeated, or that named a video as its own copy; they count once, or not at all.
        sha256: of the source file, or "" when built in memory.
    """

    relevant: Mapping[str, frozenset[str]]
    groups: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    duplicates: Sequence[str] = ()
    sha256: str = ""

    @property
    def ids(self) -> set[str]:
        """Every id that the source names."""
        return set(self.relevant).union(*self.relevant.values())


@dataclass(frozen=True)
class Coverage:
    """How much of a ground truth the store holds; counts of ids, and the missing ones by name (the first few)."""

    ids_named: int
    ids_found: int
    queries_named: int
    queries_evaluated: int
    positives_named: int
    positives_found: int
    queries_without_positives: Sequence[str]
    missing: Sequence[str]
    duplicates: Sequence[str]

    @property
    def line(self) -> str:
        """One sentence for a person."""
        text = (
            f"{self.ids_found} of {self.ids_named} named videos are in the store; {self.queries_evaluated} of "
            f"{self.queries_named} queries evaluated; {self.positives_found} of {self.positives_named} positives "
            "present"
        )
        if self.queries_without_positives:
            text += f"; {len(self.queries_without_positives)} queries have no positive left and are not averaged"
        return text


@dataclass(frozen=True)
class Task:
    """Queries, the database they search and what is relevant: all that a method needs to be scored.

    Attributes:
        name: "" or the value that distinguishes this task ("hard").
        queries: ids in the order of the database list.
        database: ids; a query that is also in the database never meets itself.
        relevant: for each query the relevant ids inside the database, never itself.
        missing_positives: for each query, positives that count although they are absent; usually none.
        groups: for each query what it belongs to, for the interval; empty: every query stands alone.
        ignored: for each query, database ids that are neither right nor wrong: they are taken out of its ranking.
        protocol: how this was set up, in words.
        coverage: what the store lacks.
    """

    name: str
    queries: Sequence[str]
    database: Sequence[str]
    relevant: Mapping[str, frozenset[str]]
    protocol: str
    coverage: Coverage
    missing_positives: Mapping[str, int] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    ignored: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def num_draws(self) -> int:
        """What the bootstrap draws from: groups of queries, or queries where there are no groups."""
        return len({self.groups[query] for query in self.queries}) if self.groups else len(self.queries)

    @property
    def ids_sha256(self) -> str:
        """Hash of the query list and the database list, in sorted order: equal hashes mean the same task."""
        lines = [*(f"q\t{video_id}" for video_id in sorted(self.queries)), *(f"d\t{v}" for v in sorted(self.database))]
        return hashlib.sha256("\n".join(lines).encode("utf-8", errors="surrogateescape")).hexdigest()


def read_ground_truth(path: str | Path, known_ids: Collection[str] = ()) -> GroundTruth:
    """Read pairs or groups.

    Args:
        path: a CSV with one of the headings of this module.
        known_ids: the store's ids; only used to match a ``file`` column.

    Raises:
        ReelkinError: the file cannot be read, or a video is in two groups.
        UsageError: the heading is none of those known.
    """
    rows = read_csv(path)
    heading = set(rows[0])
    if {"query", "video"} <= heading:
        truth = from_pairs((row["query"], row["video"]) for row in rows)
        extra, id_column = heading - {"query", "video"}, "query"
    elif "group" in heading and heading & {"video_id", "file"}:
        id_column = "video_id" if "video_id" in heading else "file"
        if id_column == "file":
            known = set(known_ids)
            rows = [{**row, "file": _without_extension(row["file"], known)} for row in rows]
        truth = from_groups((row[id_column], row["group"]) for row in rows)
        extra = heading - {id_column, "group"}
    else:
        raise UsageError(
            f"--ground-truth {path} has the heading {','.join(rows[0])}; expected query,video or video_id,group or "
            "file,group or copy_id,source_id"
        )
    columns = {name: {row[id_column]: row[name] for row in rows} for name in sorted(extra)}
    return GroundTruth(truth.relevant, truth.groups, columns, truth.duplicates, sha256_file(path))


def from_pairs(pairs: Iterable[tuple[str, str]]) -> GroundTruth:
    """Ground truth from directed (query, relevant video) pairs; repeated pairs and self-pairs are noted."""
    relevant: dict[str, set[str]] = {}
    duplicates = []
    for query, video in pairs:
        found = relevant.setdefault(query, set())
        if video in found or video == query:
            duplicates.append(f"{query},{video}")
        elif video:
            found.add(video)
    return GroundTruth({query: frozenset(found) for query, found in relevant.items()}, duplicates=duplicates)


def from_groups(rows: Iterable[tuple[str, str]]) -> GroundTruth:
    """Ground truth from (video id, group) rows: the other members of a query's group are relevant to it."""
    groups: dict[str, str] = {}
    duplicates = []
    for video_id, group in rows:
        if video_id not in groups:
            groups[video_id] = group
        elif groups[video_id] == group:
            duplicates.append(f"{video_id},{group}")
        else:
            raise ReelkinError(
                f"{video_id!r} is in the groups {groups[video_id]!r} and {group!r}; name each video once, or give "
                "pairs (query,video) where groups overlap"
            )
    members: dict[str, set[str]] = {}
    for video_id, group in groups.items():
        if group:
            members.setdefault(group, set()).add(video_id)
    relevant = {video_id: frozenset(members[group] - {video_id}) for video_id, group in groups.items() if group}
    return GroundTruth(relevant, {query: groups[query] for query in relevant}, duplicates=duplicates)


def make_task(
    truth: GroundTruth,
    store_ids: Sequence[str],
    *,
    queries: Collection[str] | None = None,
    count_missing: bool = False,
    name: str = "",
) -> Task:
    """Meet a ground truth with a store: every video of the store is in the database.

    Args:
        truth: named relevance.
        store_ids: ids with features, in store order.
        queries: evaluate only these. Default: every query that the ground truth names.
        count_missing: let positives that are not in the store count as never found. Default: positives mean positives
            in the database, and the coverage says what is missing.
        name: of the task.

    Raises:
        ReelkinError: no query is left, or ``queries`` names one without ground truth.
    """
    held = set(store_ids)
    wanted = set(truth.relevant) if queries is None else set(queries)
    unknown = sorted(wanted - set(truth.relevant))
    if unknown:
        raise ReelkinError(f"{_listed(unknown)} asked for as queries, but the ground truth has no row for them")
    present = [video_id for video_id in store_ids if video_id in wanted]
    if not present:
        raise ReelkinError(
            f"none of the {len(wanted)} queries is in the feature store (named: {_listed(sorted(wanted))}; the store "
            f"holds: {_listed(store_ids)}); check that ids are spelled as in the store's manifest"
        )
    relevant = {query: truth.relevant[query] & held for query in present}
    named = {query: len(truth.relevant[query]) for query in present}
    ids = truth.ids
    coverage = Coverage(
        ids_named=len(ids),
        ids_found=len(ids & held),
        queries_named=len(wanted),
        queries_evaluated=len(present),
        positives_named=sum(named.values()),
        positives_found=sum(map(len, relevant.values())),
        queries_without_positives=[q for q in present if not (named[q] if count_missing else len(relevant[q]))],
        missing=sorted(ids - held),
        duplicates=list(truth.duplicates),
    )
    missing = {query: named[query] - len(relevant[query]) for query in present} if count_missing else {}
    return Task(
        name,
        present,
        list(store_ids),
        relevant,
        _protocol(bool(truth.groups), count_missing),
        coverage,
        missing,
        truth.groups,
    )


def _protocol(grouped: bool, count_missing: bool) -> str:
    relevance = "the other videos of its group" if grouped else "the videos paired with it in the ground truth"
    absent = "count as never found" if count_missing else "are left out (the coverage counts them)"
    drawn = "whole groups of queries" if grouped else "queries"
    return (
        f"Every video of the store is in the database. Relevant to a query are {relevance}; the query itself is taken "
        f"out of its ranking and its positives. Positives that are not in the store {absent}. A query without "
        "positives is reported and not averaged. Average precision is the expected value over all orders of equal "
        f"scores (scores closer than 0.000001 are equal). Intervals: 95 %, bootstrap over {drawn}."
    )


def _without_extension(name: str, known: set[str]) -> str:
    return name if name in known else str(Path(name).with_suffix("")) if name else name


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - SHOWN} more" if len(ids) > SHOWN else ""
    return ", ".join(map(repr, ids[:SHOWN])) + more
