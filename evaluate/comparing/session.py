"""A comparison of two results, from the flags to what is said of them: what evaluate/compare.py does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from ...core.errors import ReelkinError, UsageError
from ...core.files import publish_json, refuse_overwriting
from ..published.annotation import Annotation
from ..published.benchmarks import read_annotation
from ..published.pairs import split_labels
from ..published.saved_scores import SavedScores, read_scores
from .by_query import differences_by_query
from .comparison import Comparison, rough
from .intersection import judge_again
from .results import Result, read_result

MUST_AGREE = {"dataset": "dataset", "protocol": "protocol", "annotation_sha256": "annotation"}


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare two results of evaluate/run.py --dataset: judged again on the queries and videos that both have, if their
    scores lie beside them, else by the figures of the queries that both have."""

    a: tyro.conf.Positional[Path]
    """results.json of the one system."""
    b: tyro.conf.Positional[Path]
    """results.json of the other."""
    annotations: str = ""
    """The ground truth of both, as of evaluate/run.py. Default: what the results were made with, if it is still there;
    that which comes with the program is."""
    unscored: Literal["never-found", "left-out"] = "never-found"
    """What becomes of a pair that one system has scored and the other has not, though both have its query and its
    video. never-found: for the other it is what the protocol makes of pairs without a score, a positive never found
    (for lists of the best videos). left-out: it is taken out of both (for pairs that the other was not asked for)."""
    output: Path | None = None
    """JSON file for the comparison. Default: print only."""
    resamples: int = 2000
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


def compare(config: CompareConfig) -> Comparison:
    """Compare two results.

    Raises:
        UsageError: ``--output`` is one of the two, they are of different datasets, protocols or annotations (both are
            named), or ``--annotations`` is another ground truth than theirs.
        ReelkinError: a file is no result of a benchmark, scores beside one are damaged or of another run, or the two
            have no query, no video or no measure in common.
    """
    if config.output is not None:
        refuse_overwriting([config.output], {"the result a": config.a, "the result b": config.b})
    a, b = read_result(config.a), read_result(config.b)
    for key, name in MUST_AGREE.items():
        if getattr(a, key) != getattr(b, key):
            raise UsageError(
                f"{config.a} and {config.b} cannot be compared: the {name} is {_version(a, key)} in the one and "
                f"{_version(b, key)} in the other; evaluate both alike"
            )
    found = _scores_and_truth(a, b, config)
    comparison = _by_query(a, b, config, found) if isinstance(found, str) else _again(a, b, config, *found)
    if config.output is not None:
        settings = {"a": str(config.a), "b": str(config.b), "resamples": config.resamples, "seed": config.seed}
        publish_json(config.output, comparison.as_json(**settings, unscored=config.unscored))
    return comparison


def _version(side: Result, key: str) -> str:
    value = str(getattr(side, key))
    return f"{side.annotation} (sha256 {value[:12]})" if key == "annotation_sha256" else repr(value)


def _scores_and_truth(a: Result, b: Result, config: CompareConfig) -> tuple[SavedScores, SavedScores, Annotation] | str:
    """All that it takes to judge both again, or what is lacking and what to do."""
    lacking = [
        f"{name} {'names no file of its scores' if each.scores is None else f'lacks its scores, {each.scores.name}'}"
        for name, each in (("a", a), ("b", b))
        if each.scores is None or not (each.path.parent / each.scores.name).is_file()
    ]
    if lacking:
        return f"{', '.join(lacking)}; evaluate again with --output and keep the file of scores beside the results"
    assert a.scores is not None and b.scores is not None
    try:
        annotation = _annotation(a, config.annotations)
    except ReelkinError as error:
        if config.annotations:
            raise
        return f"the annotation of both cannot be had ({error}); give it with --annotations"
    return read_scores(a.path.parent, a.scores), read_scores(b.path.parent, b.scores), annotation


def _annotation(result: Result, given: str) -> Annotation:
    """The ground truth of a result. Raises ReelkinError if it cannot be read or is another one."""
    known = result.annotation if result.annotation in ("old", "new") else str(result.config.get("annotations", ""))
    annotation = read_annotation(
        result.dataset,
        given or known,
        positive_labels=split_labels(str(result.config.get("positive_labels", ""))),
        judged_only=bool(result.config.get("judged_only", False)),
    )
    if annotation.sha256 != result.annotation_sha256:
        raise UsageError(
            f"--annotations {given or known or '(that which comes with the program)'} is another ground truth (sha256 "
            f"{annotation.sha256[:12]}) than the results rest on ({_version(result, 'annotation_sha256')})"
        )
    return annotation


def _again(
    a: Result, b: Result, config: CompareConfig, scores_a: SavedScores, scores_b: SavedScores, annotation: Annotation
) -> Comparison:
    judged = judge_again(
        scores_a,
        scores_b,
        annotation,
        a.protocol,
        leave_out=config.unscored == "left-out",
        num_resamples=config.resamples,
        level=config.level,
        seed=config.seed,
    )
    coverage = {"a": a.coverage, "b": b.coverage, "both": judged.coverage}
    if not judged.differences:
        raise ReelkinError(f"no query that both {config.a} and {config.b} have has a positive: nothing can be compared")
    notes = (*judged.notes, *rough(judged.differences))
    return Comparison(a.facts(), coverage, tuple(judged.differences), True, notes, config.level)


def _by_query(a: Result, b: Result, config: CompareConfig, lacking: str) -> Comparison:
    differences, notes = differences_by_query(
        a, b, num_resamples=config.resamples, level=config.level, seed=config.seed
    )
    if not differences:
        raise ReelkinError(f"{config.a} and {config.b} have no measure with a common query: nothing can be compared")
    notes += rough(differences)
    notes.append(f"compared by the figures that each has, not judged again on what both have: {lacking}")
    common = {query for measure, aps in a.aps.items() for query in aps if query in b.aps.get(measure, {})}
    return Comparison(
        a.facts(),
        {"a": a.coverage, "b": b.coverage},
        tuple(differences),
        False,
        tuple(dict.fromkeys(notes)),
        config.level,
        len(common),
    )
