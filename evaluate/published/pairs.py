"""PAIRS: any list of judged pairs, a CSV with the columns query, video and label.

Without a column label every pair is positive. Every video that has scores is in the database, and a video that the list
does not name for a query counts as wrong; with ``judged_only`` only judged pairs are ranked.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ...core.errors import UsageError
from ...core.files import sha256_file
from ...core.tables import read_csv
from .annotation import Annotation, ProblemLog, Source

POSITIVE, NEGATIVE, UNCLEAR = "positive", "negative", "unclear"

_MEANINGS = {
    **dict.fromkeys(("1", "true", "yes", "positive"), POSITIVE),
    **dict.fromkeys(("0", "false", "no", "negative"), NEGATIVE),
    **dict.fromkeys(("-1", "unclear", "ignore"), UNCLEAR),
}


def split_labels(text: str) -> list[str]:
    """Comma-separated labels, each without what stands around it."""
    return [label.strip() for label in text.split(",") if label.strip()]


def read_pairs(
    annotations: str | Path, *, positive_labels: Collection[str] = (), judged_only: bool = False
) -> Annotation:
    """Judged pairs of the user's.

    Args:
        annotations: the CSV; other columns are left alone.
        positive_labels: labels that mean positive, every other then means negative. Default: 1, true, yes, positive
            against 0, false, no, negative; -1, unclear, ignore: the pair is taken out of the ranking. Case does not
            matter.
        judged_only: rank only the pairs that the list judges.

    Raises:
        UsageError: the columns are missing, or a label is not understood.
        ReelkinError: the file cannot be read.
    """
    rows = read_csv(annotations)
    if not {"query", "video"} <= set(rows[0]):
        raise UsageError(f"--annotations {annotations} has the heading {','.join(rows[0])}; expected query,video,label")
    wanted = {label.lower() for label in positive_labels}
    log = ProblemLog()
    judged: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, 1):
        query, video_id, label = row["query"], row["video"], row.get("label", "1").lower()
        pair = f"{query},{video_id}"
        if not query or not video_id:
            log.add("rows without a query or a video; left out", f"row {number}")
            continue
        meaning = (POSITIVE if label in wanted else NEGATIVE) if wanted else _MEANINGS.get(label)
        if meaning is None:
            raise UsageError(
                f"--annotations {annotations}, row {number}: the label {row.get('label')!r} is none of "
                f"{', '.join(_MEANINGS)}; name the labels that mean positive"
            )
        of_query = judged.setdefault(query, {})
        if query == video_id:
            log.add("pairs of a video with itself", query)
        if of_query.get(video_id, meaning) != meaning:
            log.add("pairs judged differently; a positive judgement counts before others", pair)
            meaning = POSITIVE if POSITIVE in (meaning, of_query[video_id]) else NEGATIVE
        elif video_id in of_query:
            log.add("pairs judged twice alike; they count once", pair)
        of_query[video_id] = meaning
    labels = {
        query: {name: tuple(v for v, m in of_query.items() if m == name) for name in (POSITIVE, NEGATIVE)}
        for query, of_query in judged.items()
    }
    unclear = {query: frozenset(v for v, m in of_query.items() if m == UNCLEAR) for query, of_query in judged.items()}
    return Annotation(
        dataset="PAIRS",
        version="",
        queries=tuple(judged),
        database=None,
        labels=labels,
        unclear={query: ids for query, ids in unclear.items() if ids},
        judged_only=judged_only,
        problems=log.problems,
        sources=(Source(Path(annotations).name, sha256_file(annotations)),),
    )
