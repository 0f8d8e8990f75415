"""What a benchmark's ground truth says, after validation; what is wrong in it is counted and named, never dropped
silently."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ...core.errors import ReelkinError
from ...search.text import shown

NAMED = 10
"""Examples that a problem names."""


@dataclass(frozen=True)
class Problem:
    """Something found wrong or missing: what it is, how often, and the first `NAMED` places."""

    kind: str
    count: int
    examples: tuple[str, ...]

    @property
    def text(self) -> str:
        """One line for a person."""
        more = f" and {self.count - len(self.examples)} more" if self.count > len(self.examples) else ""
        named = f": {', '.join(map(shown, self.examples))}{more}" if self.examples else ""
        return f"{self.kind}: {self.count}{named}"

    def as_json(self) -> dict[str, Any]:
        """The problem as plain values."""
        return {"kind": self.kind, "count": self.count, "examples": list(self.examples)}


class ProblemLog:
    """Collects problems by kind, in the order in which the kinds were first met."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, list[str]]] = {}

    def add(self, kind: str, *examples: str) -> None:
        """Count one problem per example."""
        self.add_all(kind, examples)

    def add_all(self, kind: str, examples: Iterable[str]) -> None:
        """Count each example; the first `NAMED` are kept by name."""
        for example in examples:
            count, kept = self._found.get(kind, (0, []))
            if len(kept) < NAMED:
                kept.append(example)
            self._found[kind] = (count + 1, kept)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was found."""
        return tuple(Problem(kind, count, tuple(kept)) for kind, (count, kept) in self._found.items())


@dataclass(frozen=True)
class Source:
    """A file that an annotation was read from, by name (no path) and sha256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Annotation:
    """A benchmark's ground truth. Ids are in one spelling: `normal_id` gives it for any spelling that is in use.

    Attributes:
        dataset: "FIVR-5K", "CC_WEB_VIDEO", ...
        version: which of several annotations of the same videos ("old", "new"), or "file" for another than those known.
        queries: ids, each once, in the published order.
        database: ids that are ranked, each once, in the published order; None: whatever has scores (PAIRS), and for
            coverage what the judgements name.
        labels: for each query the judged ids by label, as listed: a query may stand in its own list, and an id that
            begins with "#" names a judgement without a video (CC_WEB_VIDEO).
        excluded: ids that a "clean" variant leaves out, by query (CC_WEB_VIDEO).
        unclear: ids that are neither right nor wrong, by query (EVVE's null sets, PAIRS).
        groups: what each query belongs to (EVVE: its event); empty if the benchmark has none.
        judged_only: a query is ranked against the ids judged for it and those of `unlabeled` alone (SVD).
        unlabeled: ids that no query is judged against and all are ranked against (SVD).
        problems: what was found wrong while reading.
        sources: the files it was read from.
        normal_id: turns an id as stores and similarity files spell it into the annotation's spelling.
    """

    dataset: str
    version: str
    queries: tuple[str, ...]
    database: tuple[str, ...] | None
    labels: Mapping[str, Mapping[str, tuple[str, ...]]]
    excluded: Mapping[str, frozenset[str]] = field(default_factory=dict)
    unclear: Mapping[str, frozenset[str]] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    judged_only: bool = False
    unlabeled: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    sources: tuple[Source, ...] = ()
    normal_id: Callable[[str], str] = field(default=str, compare=False)

    def __post_init__(self) -> None:
        if not self.queries:
            raise ReelkinError(f"the annotation of {self.dataset} names no query")

    def listed(self, query: str, labels: Collection[str]) -> frozenset[str]:
        """The ids that stand under any of ``labels`` for a query, itself included where it is listed."""
        of_query = self.labels.get(query, {})
        return frozenset(video_id for label in labels for video_id in of_query.get(label, ()))

    @property
    def ids(self) -> tuple[str, ...]:
        """All ids that are to be scored, queries first, each once; without the database where that is open."""
        return tuple(dict.fromkeys((*self.queries, *(self.database or ()))))

    @property
    def named(self) -> tuple[str, ...]:
        """The videos that the judgements name, each once: what an open database is expected to hold."""
        judged = (video_id for labels in self.labels.values() for ids in labels.values() for video_id in ids)
        unclear = (video_id for ids in self.unclear.values() for video_id in sorted(ids))
        return tuple(dict.fromkeys((*judged, *unclear)))

    @cached_property
    def judged(self) -> frozenset[str]:
        """The videos of the database that are judged for some query."""
        return frozenset(self.database or ()) - self.unlabeled

    @cached_property
    def sha256(self) -> str:
        """Hash of what is evaluated (ids and judgements), not of a file: any file that says the same gives the same.

        Order does not matter, nor does the spelling of ids.
        """
        text = "".join(f"{line}\n" for line in self._lines())
        return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()

    def _lines(self) -> Iterable[str]:
        yield f"{self.dataset}\t{self.judged_only}\t{self.database is None}"
        for letter, ids in (("q", self.queries), ("d", self.database or ()), ("u", self.unlabeled)):
            if ids:  # all of these lines at once: there are hundreds of thousands
                yield f"{letter}\t" + f"\n{letter}\t".join(sorted(ids))
        for query, labels in sorted(self.labels.items()):
            for label, ids in sorted(labels.items()):
                if ids:
                    yield "\t".join(("l", query, label, *sorted(ids)))
        for letter, lists in (("x", self.excluded), ("n", self.unclear)):
            for query, some_ids in sorted(lists.items()):
                if some_ids:
                    yield "\t".join((letter, query, *sorted(some_ids)))
        yield from (f"g\t{query}\t{group}" for query, group in sorted(self.groups.items()))


def each_once(ids: Iterable[str], log: ProblemLog, kind: str) -> tuple[str, ...]:
    """The ids in order without repetitions, which are logged as ``kind``."""
    kept: dict[str, None] = {}
    for video_id in ids:
        if video_id in kept:
            log.add(kind, video_id)
        kept[video_id] = None
    return tuple(kept)


def match_ids(annotation: Annotation, ids: Sequence[str], log: ProblemLog, what: str) -> dict[str, int]:
    """Where each id stands in ``ids``, in the annotation's spelling; of several spellings of one id the first counts.

    Args:
        annotation: whose spelling is meant.
        ids: of scores or of a store.
        log: gets ids that are there more than once.
        what: "query" or "video", for the log.
    """
    places: dict[str, int] = {}
    for place, video_id in enumerate(ids):
        normal = annotation.normal_id(video_id)
        if normal in places:
            log.add(f"a {what} stands in the scores more than once; the first counts", video_id)
        else:
            places[normal] = place
    return places
