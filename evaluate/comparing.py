"""Two systems on one benchmark, query by query: differences of average precision with paired bootstrap intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tyro

from ..core.errors import ReelkinError, UsageError
from ..core.files import publish_json, read_json
from ..core.ids import some_of
from ..core.metrics import mean_with_interval
from ..search.text import shown
from .published.outcome import FORMAT as RESULTS_FORMAT
from .published.outcome import VERSION as RESULTS_VERSION

FORMAT, VERSION = "reelkin-comparison", 1
SAME = 1e-9
"""Average precisions closer than this are equal."""
NAMES = {"queries": "queries", "database": "videos"}
MUST_AGREE = {"dataset": "dataset", "protocol": "protocol", "annotation_sha256": "annotation"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two results of evaluate/run.py --dataset, on the queries and measures that both have."""

    a: tyro.conf.Positional[Path]
    """results.json of the one system."""
    b: tyro.conf.Positional[Path]
    """results.json of the other."""
    output: Path | None = None
    """JSON file for the comparison. Default: print only."""
    resamples: int = 10_000
    """Of the paired bootstrap over queries."""
    level: float = 0.95
    """Probability mass inside the intervals."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        if self.resamples < 1 or not 0 < self.level < 1:
            raise UsageError(
                f"--resamples {self.resamples} must be at least 1, and --level {self.level} between 0 and 1"
            )
        if self.seed < 0:
            raise UsageError(f"--seed is {self.seed}; it must not be negative")


@dataclass(frozen=True)
class Difference:
    """One measure, b - a.

    Attributes:
        measure: its name.
        a, b: mean over the common queries; of a measure without values per query, the figures themselves.
        mean: b - a.
        low, high: the interval of the mean over resamples of queries; None without values per query.
        num_queries: common queries with a value in both; 0 without values per query.
        wins, losses: queries that b, and that a, ranks better; the others are equal.
    """

    measure: str
    a: float
    b: float
    mean: float
    low: float | None = None
    high: float | None = None
    num_queries: int = 0
    wins: int = 0
    losses: int = 0

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Comparison:
    """Two systems side by side; ``facts`` is what both results agree on, ``notes`` what is not alike in them."""

    facts: Mapping[str, str]
    coverage: Mapping[str, Any]
    differences: tuple[Difference, ...]
    notes: tuple[str, ...] = field(default=())
    level: float = 0.95

    def as_json(self, config: CompareConfig) -> dict[str, Any]:
        """The content of the file that ``--output`` names."""
        return {
            "format": FORMAT,
            "version": VERSION,
            **self.facts,
            "a": str(config.a),
            "b": str(config.b),
            "coverage": dict(self.coverage),
            "resamples": config.resamples,
            "level": config.level,
            "seed": config.seed,
            "measures": [vars(difference) for difference in self.differences],
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """A table for a terminal."""
        what = ", ".join(shown(value) for key, value in self.facts.items() if key != "annotation_sha256" and value)
        lines = [what, *(f"  {name}: {self._covered(name)}" for name in ("a", "b"))]
        width = max((len(shown(difference.measure)) for difference in self.differences), default=0)
        for each in self.differences:
            line = f"  {shown(each.measure):<{width}}  a {each.a:.4f}  b {each.b:.4f}  b - a {each.mean:+.4f}"
            if each.low is not None and each.high is not None:
                verdict = "" if each.clear else ", not distinguishable from 0"
                ties = each.num_queries - each.wins - each.losses
                line += (
                    f" ({each.low:+.4f} to {each.high:+.4f}, {self.level:.0%}{verdict}); {each.num_queries} queries: b "
                    f"better on {each.wins}, a on {each.losses}, equal on {ties}"
                )
            else:
                line += " (no values per query, so no interval)"
            lines.append(line)
        return "\n".join([*lines, *(f"note: {shown(note)}" for note in self.notes)])

    def _covered(self, name: str) -> str:
        of = self.coverage[name]
        return ", ".join(f"{found:,} of {total:,} {NAMES[what]}" for what, (found, total) in of.items())


def compare(config: CompareConfig) -> Comparison:
    """Compare two results.

    Raises:
        UsageError: they are of different datasets, protocols or annotations; both are named.
        ReelkinError: a file is no result of a benchmark, or the two have no measure in common.
    """
    a, b = _read(config.a), _read(config.b)
    for key, name in MUST_AGREE.items():
        if a[key] != b[key]:
            raise UsageError(
                f"{config.a} and {config.b} cannot be compared: the {name} is {_version(a, key)} in the one and "
                f"{_version(b, key)} in the other; evaluate both alike"
            )
    notes = _coverage_notes(a, b)
    differences = []
    for measure in a["queries"]:
        if measure in b["queries"]:
            found = _paired(measure, a, b, config, notes)
            differences += [] if found is None else [found]
    unpaired = _unpaired(a, b)
    if unpaired and a["positives"] != b["positives"]:
        names = ", ".join(difference.measure for difference in unpaired)
        notes.append(f"{names}: of all queries and positives that each has, not of the common ones alone")
    differences += unpaired
    if not differences:
        raise ReelkinError(f"{config.a} and {config.b} have no measure with a common query: nothing can be compared")
    facts = {key: str(a[key]) for key in ("dataset", "protocol", "annotation", "annotation_sha256")}
    coverage = {name: side["coverage"] for name, side in (("a", a), ("b", b))}
    comparison = Comparison(facts, coverage, tuple(differences), tuple(dict.fromkeys(notes)), config.level)
    if config.output is not None:
        publish_json(config.output, comparison.as_json(config))
    return comparison


def _read(path: Path) -> dict[str, Any]:
    """A results.json. Raises ReelkinError when it is none of a benchmark."""
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != RESULTS_FORMAT:
        raise ReelkinError(
            f"{path} holds no results of a benchmark; give the results.json of evaluate/run.py --dataset NAME"
        )
    if content.get("version") != RESULTS_VERSION:
        raise ReelkinError(
            f"{path} is of version {content.get('version')}; this program reads {RESULTS_VERSION}: evaluate again"
        )
    try:
        coverage = {what: tuple(map(int, content["coverage"][what])) for what in ("queries", "database")}
        queries = {
            str(measure): {query: None if ap is None else _share(ap) for query, ap in of_query.items()}
            for measure, of_query in content["queries"].items()
        }
        positives = {(row["measure"], row["query"]): int(row["num_positives"]) for row in content["query_table"]}
        if any(len(pair) != 2 for pair in coverage.values()):
            raise ValueError("its coverage is not [found, of]")
        read = {key: content[key] for key in ("dataset", "protocol", "annotation", "annotation_sha256")}
        read |= {
            "metrics": {str(name): _figure(value) for name, value in content["metrics"].items()},
            "database_sha256": content.get("database_sha256"),
        }
        return {**read, "coverage": coverage, "queries": queries, "positives": positives}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ReelkinError(f"{path} is damaged ({type(error).__name__}: {error}); evaluate again") from error


def _share(value: Any) -> float:
    """An average precision or a figure. Raises ValueError."""
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"{number} stands where a number from 0 to 1 should")
    return number


def _figure(value: Any) -> Any:
    """None, a figure, or a dict of them. Raises ValueError."""
    if isinstance(value, dict):
        return {str(name): _figure(part) for name, part in value.items()}
    return None if value is None else _share(value)


def _version(side: Mapping[str, Any], key: str) -> str:
    value = str(side[key])
    return f"{side['annotation']} (sha256 {value[:12]})" if key == "annotation_sha256" else repr(value)


def _coverage_notes(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    (a_found, of), (b_found, _) = a["coverage"]["database"], b["coverage"]["database"]
    if a_found == b_found:
        alike = a["database_sha256"] == b["database_sha256"]
        return [] if alike else [f"a and b were searched in {a_found:,} videos each, but not in the same ones"]
    return [
        f"a was searched in {a_found:,} of {of:,} videos, b in {b_found:,}: with fewer wrong answers to choose from a "
        "figure is higher; for a fair comparison evaluate both on the videos that both have"
    ]


def _paired(
    measure: str, a: Mapping[str, Any], b: Mapping[str, Any], config: CompareConfig, notes: list[str]
) -> Difference | None:
    """The difference on the queries that have a value in both and the same number of positives."""
    ours, theirs = a["queries"][measure], b["queries"][measure]
    for name, own, other in (("a", ours, theirs), ("b", theirs, ours)):
        if lone := [shown(query) for query in own if query not in other]:
            notes.append(f"{len(lone)} queries of {measure} are in {name} only, and left out: {some_of(lone)}")
    common = [query for query in ours if query in theirs]
    valued = [query for query in common if ours[query] is not None and theirs[query] is not None]
    if len(valued) < len(common):
        without = [shown(query) for query in common if query not in set(valued)]
        notes.append(
            f"{len(without)} queries of {measure} have no average precision, and are left out: {some_of(without)}"
        )
    counts = [(a["positives"].get((measure, query)), b["positives"].get((measure, query))) for query in valued]
    unlike = [shown(query) for query, (own, other) in zip(valued, counts, strict=True) if own != other]
    if unlike:
        notes.append(
            f"{len(unlike)} queries of {measure} have another number of positives in b than in a, and are left out: "
            f"{some_of(unlike)}"
        )
    kept = [query for query, (own, other) in zip(valued, counts, strict=True) if own == other]
    if not kept:
        return None
    differences = [theirs[query] - ours[query] for query in kept]
    mean, low, high = mean_with_interval(differences, config.seed, num_resamples=config.resamples, level=config.level)
    return Difference(
        measure,
        sum(ours[query] for query in kept) / len(kept),
        sum(theirs[query] for query in kept) / len(kept),
        mean,
        low,
        high,
        len(kept),
        sum(difference > SAME for difference in differences),
        sum(difference < -SAME for difference in differences),
    )


def _unpaired(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """Figures that are no mean over queries: those of pooled pairs, and of single events."""
    found = []
    for name, value in a["metrics"].items():
        other = b["metrics"].get(name)
        pairs = {name: (value, other)}
        if isinstance(value, dict) and isinstance(other, dict):
            pairs = {f"{name}: {part}": (value[part], other.get(part)) for part in value}
        elif name in a["queries"]:
            continue
        found += [
            Difference(measure, one, two, two - one)
            for measure, (one, two) in pairs.items()
            if isinstance(one, float) and isinstance(two, float)
        ]
    return found
