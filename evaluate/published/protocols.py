"""The two protocols: what is right for which query, as corrected and as the published code has it.

`corrected` measures what the figure's name says. `legacy` gives the figure that the published code prints for the same
scores, its faults included, to compare with published tables. `description` says for a benchmark what differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache, partial

from ...core.errors import UsageError
from . import cc_web_video, evve, pairs, svd, vcdb
from .annotation import Annotation
from .measures import Average, Judged, Measure, Present

PROTOCOLS = ("corrected", "legacy")

FIVR_TASKS = {"DSV": ("ND", "DS"), "CSV": ("ND", "DS", "CS"), "ISV": ("ND", "DS", "CS", "IS")}
"""Positive labels by the first letters of a task's names: with R for retrieval, with D for detection."""
CC_WEB_VARIANTS = {
    "cc_web": (False, False),
    "cc_web*": (True, False),
    "cc_web_c": (False, True),
    "cc_web_c*": (True, True),
}
"""By name: whether all videos are ranked (else those of the query's set), and whether excluded ones are left out."""


def make_measures(annotation: Annotation, present: Present, protocol: str) -> list[Measure]:
    """A benchmark's figures under a protocol, for what has scores.

    Raises:
        UsageError: the protocol is none of `PROTOCOLS`.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"--protocol {protocol} is none of {', '.join(PROTOCOLS)}")
    makers: dict[str, Callable[[Annotation, Present, bool], list[Measure]]] = {
        "FIVR-5K": _fivr,
        "FIVR-200K": _fivr,
        "VCDB": _vcdb,
        "VCDB-CORE": _vcdb,
        "CC_WEB_VIDEO": _cc_web_video,
        "EVVE": _evve,
        "SVD": _svd,
        "PAIRS": _pairs,
    }
    return makers[annotation.dataset](annotation, present, protocol == "legacy")


def _judge(annotation: Annotation, present: Present, labels: Collection[str], query: str) -> Judged:
    """The corrected rule: a query is neither ranked nor its own positive; positives are in the database that is
    there; unclear videos are not ranked."""
    removed = frozenset({query}) | annotation.unclear.get(query, frozenset())
    listed = annotation.listed(query, labels) - removed
    found = listed & present.database
    candidates = None
    if annotation.judged_only and not annotation.unlabeled:
        candidates = _judged_ids(annotation, query)
    elif annotation.judged_only:
        removed |= annotation.judged - _judged_ids(annotation, query)
    return Judged(found, len(found), tuple(sorted(listed - found)), candidates, removed)


def _judged_ids(annotation: Annotation, query: str) -> frozenset[str]:
    return annotation.listed(query, annotation.labels.get(query, {}).keys())


def _counted(judged: Judged, counted: frozenset[str]) -> Judged:
    """The same ranking divided by all of ``counted``, whether they can be found or not."""
    return Judged(judged.positives & counted, len(counted), judged.missing, judged.candidates, judged.removed)


def _fivr(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    measures = []
    for task, labels in FIVR_TASKS.items():
        judge = cache(partial(_judge, annotation, present, labels))
        retrieval: Callable[[str], Judged] = judge
        if legacy:
            retrieval = partial(_fivr_as_published, annotation, present, labels)
        average = Average.FIRST_FIRST if legacy else Average.EXPECTED
        measures.append(Measure(f"{task}R", retrieval, average))
        pooled = Average.LAST_FIRST if legacy else Average.EXPECTED
        measures.append(Measure(f"{task}D", judge, pooled, pooled=True))
    return sorted(measures, key=lambda measure: measure.pooled)


def _fivr_as_published(annotation: Annotation, present: Present, labels: Collection[str], query: str) -> Judged:
    # positives are met with every id that was seen, queries and the query itself too, though it is never ranked
    counted = _seen(annotation.listed(query, labels), present)
    return _counted(_judge(annotation, present, labels, query), counted)


def _seen(ids: frozenset[str], present: Present) -> frozenset[str]:
    return (ids & present.database) | (ids & present.queries)  # not the union of the large sets, for every query


def _vcdb(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    judge = cache(partial(_judge, annotation, present, (vcdb.COPY,)))
    if not legacy:
        return [Measure("mAP", judge), Measure("uAP", judge, pooled=True)]

    def as_published(query: str) -> Judged:
        # the query is its own positive, and never ranked
        counted = _seen(annotation.listed(query, (vcdb.COPY,)), present)
        return _counted(judge(query), counted | {query})

    return [Measure("mAP", as_published, Average.FIRST_FIRST), Measure("uAP", judge, Average.LAST_FIRST, pooled=True)]


def _cc_web_video(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    def judge(all_videos: bool, clean: bool, query: str) -> Judged:
        excluded = annotation.excluded.get(query, frozenset()) if clean else frozenset()
        # as published the query is ranked and is its own positive
        removed = excluded if legacy else excluded | {query}
        listed = annotation.listed(query, cc_web_video.POSITIVE) - removed
        found = listed & present.database
        return Judged(
            positives=found,
            total=len(listed) if legacy else len(found),
            missing=tuple(sorted(listed - found)),
            candidates=None if all_videos else _judged_ids(annotation, query),
            removed=removed,
        )

    average = Average.FIRST_FIRST if legacy else Average.EXPECTED
    return [Measure(name, partial(judge, *variant), average) for name, variant in CC_WEB_VARIANTS.items()]


def _evve(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    judge = cache(partial(_judge, annotation, present, (evve.EVENT,)))
    if not legacy:
        return [Measure("mAP", judge, groups=annotation.groups), Measure("uAP", judge, pooled=True)]

    @cache
    def as_published(query: str) -> Judged:
        # null sets are read and not used: their videos count as wrong
        listed = annotation.listed(query, (evve.EVENT,))
        found = listed & present.database
        return Judged(found, len(found), tuple(sorted(listed - found)))

    return [
        Measure("mAP", as_published, Average.TRAPEZOID, if_empty=0.0, groups=annotation.groups),
        Measure("uAP", as_published, Average.LAST_FIRST, pooled=True),
    ]


def _svd(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    judge = partial(_judge, annotation, present, (svd.POSITIVE,))
    if not legacy:
        return [Measure("mAP", judge)]

    def as_published(query: str) -> Judged:
        judged = judge(query)
        found = annotation.listed(query, (svd.POSITIVE,)) & present.database
        # the query, if judged against itself, is ranked like any other
        removed = judged.removed - ({query} & _judged_ids(annotation, query))
        return Judged(found, len(found), judged.missing, judged.candidates, removed)

    return [Measure("mAP", as_published, Average.THRESHOLDS, if_empty=0.0, counts_unscored=False)]


def _pairs(annotation: Annotation, present: Present, legacy: bool) -> list[Measure]:
    judge = cache(partial(_judge, annotation, present, (pairs.POSITIVE,)))
    if not legacy:
        return [Measure("mAP", judge), Measure("uAP", judge, pooled=True)]

    def as_published(query: str) -> Judged:
        counted = annotation.listed(query, (pairs.POSITIVE,)) & present.database
        return _counted(judge(query), counted)

    average = Average.LAST_FIRST
    return [Measure("mAP", as_published, average), Measure("uAP", as_published, average, pooled=True)]


_CORRECTED = (
    "The query is taken out of its ranking and out of its positives, and so are videos judged neither right nor wrong "
    "(null videos). Positives are those in the database that has scores; a positive whose video is there but whose "
    "pair has no score counts as never found. Average precision is the mean over all orders of videos with equal "
    "scores. A query without positives is reported and not averaged. A perfect ranking scores 1."
)
_STABLE = "Ties stay in the order in which the scores list the videos. "
_REVERSED = (
    "The micro average precision is that of S2VS (TCA has none): it differs in ties only, which stand in the reverse "
    "of the order of the scores (queries in that of the annotation); its sort leaves their order open, this is the one "
    "that short lists get. "
)

_DIFFERS: dict[str, tuple[str, str]] = {
    "FIVR": (
        "DSVR, CSVR and ISVR: mean average precision of near duplicates and duplicate scenes, then with complementary "
        "scenes, then with all scenes of the incident. DSVD, CSVD and ISVD: micro average precision of the same.",
        "As TCA computes it: positives are met with every id that was seen, queries included, though the query itself "
        "is never ranked; one query lists itself under IS, so a perfect ranking's ISVR stays below 1. A query without "
        "positives, where TCA stops with a division by zero, is left out. " + _STABLE + _REVERSED,
    ),
    "VCDB": (
        "mAP and uAP (micro average precision) of the partners of annotated pairs.",
        "As TCA computes it: each query is among its own positives and never in its ranking, so a perfect ranking "
        "scores 0.9305 when all videos are there. " + _STABLE + _REVERSED,
    ),
    "CC_WEB_VIDEO": (
        "cc_web ranks the videos of the query's set, cc_web* all; in cc_web_c and cc_web_c* the published list of "
        "excluded videos is left out of rankings and positives. Judgements of numbers without a video are left out.",
        "As TCA computes it: the query is ranked and is a hit for itself; judgements of numbers without a video, and "
        "positives without features, are never found (a perfect ranking of all videos scores below 1 in set 4). An id "
        "that the annotation does not know, where TCA stops, is left out. " + _STABLE,
    ),
    "EVVE": (
        "mAP over queries, uAP (micro average precision) and, in events, mAP over the queries of each event.",
        "As TCA computes it: the area under precision and recall by trapezoids, which is lower than average precision "
        "for hits after the first place; null videos count as wrong; a query whose positives are all missing counts as "
        "0. " + _STABLE + _REVERSED,
    ),
    "SVD": (
        "mAP; a query is ranked against the videos judged for it and the unlabelled ones, if their list is given.",
        "As DnS computes it with scikit-learn: a positive counts with the precision after all videos of its score; a "
        "query without positives counts as 0; a pair without a score, where DnS stops, is left out. The query is "
        "ranked if it is judged against itself.",
    ),
    "PAIRS": (
        "mAP and uAP (micro average precision) of the pairs judged positive.",
        "As S2VS computes VCDB: ties stand in the reverse of the order of the scores; a query that is listed as its "
        "own positive counts for it and is never ranked.",
    ),
}


def description(dataset: str, protocol: str) -> str:
    """What a benchmark's figures are under a protocol, in a few sentences; for legacy, what differs."""
    figures, differs = _DIFFERS["FIVR" if dataset.startswith("FIVR") else dataset.removesuffix("-CORE")]
    return f"{figures} {_CORRECTED if protocol == 'corrected' else differs.strip()}"
