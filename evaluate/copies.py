"""The protocol for edited copies: how well are copies found, by strength of the edits, for scenes never trained on?

For each strength s:

* database: everything in the store except the copies of other strengths. So the originals and the copies of strength s
  of training scenes stay in as distractors, and each strength is searched in a database of the same make;
* queries: the copies of strength s whose source belongs to a held-out group;
* relevant: every other database video made from the query's own source group: the originals, and the other copies of
  strength s;
* ignored: videos that share only the guest of a copy that joins or frames two sources. Finding them is no mistake, and
  asking for them would ask a video-level method for what fills a second of the picture.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from ..core.errors import ReelkinError
from .ground_truth import Coverage, Task

PROTOCOL = (
    "A task per strength of the edits. Queries: the copies of the task's strength whose source is held out{held}. "
    "Database: every video of the store except copies of other strengths; originals and copies of this strength that "
    "belong to other scenes stay in as distractors. Relevant to a query: every other database video made from the same "
    "source group (its original or originals, and the other copies of this strength). Videos that share with it only "
    "the second source of a copy that joins or frames two are neither right nor wrong: they and the query itself are "
    "taken out of its ranking. Copies that are not in the store are left out and counted in the coverage. Average "
    "precision is the expected value over all orders of equal scores (scores closer than 0.000001 are equal). "
    "Intervals: 95 %, bootstrap over source groups, since copies of one source succeed and fail together."
)


def copy_tasks(
    rows: Iterable[Mapping[str, str]],
    store_ids: Sequence[str],
    *,
    groups: Mapping[str, str] | None = None,
    strengths: Sequence[str] = ("easy", "medium", "hard"),
    test_groups: Collection[str] | None = None,
) -> list[Task]:
    """One task per strength.

    Args:
        rows: of edits.csv: ``copy_id, source_id, strength`` and optionally ``other_source_id``; a copy may have
            several rows (one per segment).
        store_ids: ids with features, in store order.
        groups: the group of each source that shows the same scene as another one; a source without an entry is a group
            of its own, named as itself.
        strengths: tasks to make, in this order.
        test_groups: held-out groups; None: all are evaluated (nothing was trained on).

    Raises:
        ReelkinError: a copy has two strengths, or a strength has no query in the store.
    """
    strength_of, sources_of = _read_copies(rows)
    group_of = dict(groups or {})

    def shown(video_id: str) -> set[str]:
        return {group_of.get(source, source) for source in sources_of.get(video_id, [video_id])}

    def own(video_id: str) -> set[str]:
        source = sources_of.get(video_id, [video_id])[0]
        return {group_of.get(source, source)}

    tasks = []
    for strength in strengths:
        copies = [copy for copy, value in strength_of.items() if value == strength]
        first_group = {copy: group_of.get(sources_of[copy][0], sources_of[copy][0]) for copy in copies}
        named = [copy for copy in copies if test_groups is None or first_group[copy] in test_groups]
        database = [video_id for video_id in store_ids if strength_of.get(video_id, strength) == strength]
        queries = [video_id for video_id in database if video_id in set(named)]
        if not queries:
            raise ReelkinError(
                f"strength {strength!r}: none of its {len(named)} held-out copies is in the store; strengths in the "
                f"list of copies: {', '.join(sorted(set(strength_of.values())))}"
            )
        originals = {source for sources in sources_of.values() for source in sources}
        relevant = _sharing(queries, database, own)
        sharing = _sharing(queries, database, shown)
        ignored = {query: sharing[query] - relevant[query] for query in queries}
        relevant_named = _sharing(queries, {*database, *copies, *originals}, own)
        coverage = _coverage(named, queries, relevant_named, relevant, set(store_ids))
        held_out = " (all are)" if test_groups is None else f" from training ({len(set(test_groups))} groups)"
        protocol = PROTOCOL.format(held=held_out)
        tasks.append(Task(strength, queries, database, relevant, protocol, coverage, {}, first_group, ignored))
    return tasks


def _coverage(
    named: list[str],
    queries: list[str],
    positives_named: Mapping[str, frozenset[str]],
    positives: Mapping[str, frozenset[str]],
    stored: set[str],
) -> Coverage:
    """How much of what the list of copies names is there."""
    ids = set(named).union(*positives_named.values())
    return Coverage(
        ids_named=len(ids),
        ids_found=len(ids & stored),
        queries_named=len(named),
        queries_evaluated=len(queries),
        positives_named=sum(map(len, positives_named.values())),
        positives_found=sum(map(len, positives.values())),
        queries_without_positives=[query for query in queries if not positives[query]],
        missing=sorted(ids - stored),
        duplicates=[],
    )


def _sharing(
    queries: Iterable[str], database: Iterable[str], groups_of: Callable[[str], set[str]]
) -> dict[str, frozenset[str]]:
    """For each query every other database video with one of its groups."""
    showing: dict[str, set[str]] = {}
    for video_id in database:
        for group in groups_of(video_id):
            showing.setdefault(group, set()).add(video_id)
    return {
        query: frozenset(set().union(*(showing.get(g, ()) for g in groups_of(query))) - {query}) for query in queries
    }


def _read_copies(rows: Iterable[Mapping[str, str]]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The strength of each copy, and the sources it shows, its own source first."""
    strength_of: dict[str, str] = {}
    sources_of: dict[str, list[str]] = {}
    for row in rows:
        copy, strength = row["copy_id"], row.get("strength", "")
        if strength_of.setdefault(copy, strength) != strength:
            raise ReelkinError(f"copy {copy!r} is listed with the strengths {strength_of[copy]!r} and {strength!r}")
        for source in (row["source_id"], row.get("other_source_id") or ""):
            if source and source not in sources_of.setdefault(copy, []):
                sources_of[copy].append(source)
    return strength_of, sources_of
