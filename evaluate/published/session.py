"""An evaluation on a published benchmark, from the configuration to the files: what evaluate/run.py --dataset does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...core.config import as_dict
from ...core.engine import Engine, start
from ...core.errors import ExitCode, UsageError
from ...core.files import publish_json, publish_text
from ...core.launched import launched_rank
from ...core.logs import setup_logging
from ..reporting import plots
from ..reporting.benchmark import curve_panels, figure_panels, write_report
from .annotation import Annotation, Problem
from .baselines import Chance, embedding_baselines
from .config import PublishedConfig
from .embedding_scores import MatrixScores
from .examples import FrameMatrices, open_strips
from .measures import Present
from .outcome import Outcome
from .protocols import make_measures
from .publishing import Evaluation, System, check_writable, hash_of_ids
from .scores import Videos, open_videos
from .scoring import Scores, evaluate_scores
from .similarity_file import FileScores, read_similarities

log = logging.getLogger("reelkin.evaluate")

ALONE_SECONDS = 4 * 3600.0
"""How long rank 0 may take for the figures and the report while the others wait."""


def run(config: PublishedConfig) -> int:
    """Evaluate under whatever launcher started this process; returns the exit code.

    Raises:
        UsageError, ReelkinError: what is wrong and where.
    """
    if config.dry_run:
        if launched_rank() == 0:
            setup_logging()
            print(dry_run_text(config))
        return int(ExitCode.OK)
    if config.results_path is not None:
        check_writable(config.results_path)
    with start(config.backend, config.deadline) as engine:
        setup_logging(engine.rank)
        if config.without_effect:
            log.info("without effect on finished similarities: %s", ", ".join(config.without_effect))
        annotation = config.annotation()
        _check_show(config, annotation)
        if config.similarities is not None:
            path, max_bytes = config.similarities, config.max_bytes
            _on_main(engine, lambda: _conclude(config, annotation, read_similarities(path, max_bytes)))
        else:
            _score_features(config, annotation, engine)
    return int(ExitCode.OK)


def _check_show(config: PublishedConfig, annotation: Annotation) -> None:
    """Refuse, before any work, a measure to show that has no values per query."""
    measures = make_measures(annotation, Present(frozenset(), frozenset()), config.protocol)
    names = [measure.name for measure in measures if not measure.pooled]
    if config.show and config.show not in names:
        raise UsageError(f"--show {config.show} is none of the measures over queries: {', '.join(names)}")


def _score_features(config: PublishedConfig, annotation: Annotation, engine: Engine) -> None:
    videos = _limited_videos(open_videos(config, annotation), annotation, config.limit)
    baselines: list[System] = []

    def keep(name: str, description: str, scores: MatrixScores | None) -> None:
        assert scores is not None
        baselines.append(System(name, description, _evaluate(config, annotation, scores)))

    # One matrix of similarities is held at a time: the model's comes last, since the report asks it again.
    for each in embedding_baselines(videos) if config.baselines else ():
        scores = videos.score(engine, model=each.model, metric=each.metric)
        _on_main(engine, partial(keep, each.name, each.description, scores))
        del scores
    own = videos.score(engine)

    def conclude() -> None:
        assert own is not None
        _conclude(config, annotation, own, videos, baselines)

    _on_main(engine, conclude)


def _on_main(engine: Engine, work: Callable[[], None]) -> None:
    """Rank 0's part, for which the others wait; what it raises is raised on all."""
    with engine.extend_deadline(ALONE_SECONDS):
        engine.on_main(work, "the figures")


def _conclude(
    config: PublishedConfig,
    annotation: Annotation,
    scores: FileScores | MatrixScores,
    videos: Videos | None = None,
    baselines: Sequence[System] = (),
) -> None:
    """Figures, files and the text on the terminal."""
    if isinstance(scores, FileScores):
        scores = replace(scores, queries=first_queries(scores.queries, annotation, config.limit))
    system = System(*_named(scores, videos), _evaluate(config, annotation, scores))
    if config.baselines:
        tied = config.protocol == "corrected"
        text = "the same score for every video: the mean over all rankings" if tied else "one random ranking a query"
        chance = _evaluate(config, annotation, Chance(scores, tied, config.seed))
        baselines = (*baselines, System("chance", text, chance))
    evaluation = Evaluation(
        system=system,
        baselines=baselines,
        groups=annotation.groups,
        database_sha256=hash_of_ids(annotation, scores.database),
        config=as_dict(config),
    )
    print(evaluation.text(), flush=True)
    if written := _publish(config, annotation, evaluation, scores, videos):
        print(f"written, of {system.outcome.coverage}: {', '.join(map(str, written))}")


def _publish(
    config: PublishedConfig,
    annotation: Annotation,
    evaluation: Evaluation,
    scores: FileScores | MatrixScores,
    videos: Videos | None,
) -> list[Path]:
    """Write the report, the plots, the table and, last, the results; gives their paths. Raises ReelkinError."""
    results = config.results_path
    if results is None:
        return []
    outcome = evaluation.system.outcome
    report, queries = results.with_name(config.beside("report.html")), results.with_name(config.beside("queries.csv"))
    curves, figures = (
        [results.with_name(config.beside(f"{name}.{kind}")) for kind in plots.FORMATS] for name in ("curves", "figures")
    )
    caption = f"{outcome.dataset} ({outcome.protocol}): {outcome.coverage}"
    panels = curve_panels(evaluation)
    if panels:
        plots.write_curves(panels, curves, caption)
    plots.write_dots(figure_panels(evaluation), figures, caption)
    given = {annotation.normal_id(video_id): video_id for video_id in (*scores.database, *scores.queries)}
    write_report(
        evaluation,
        report,
        title=config.title,
        show=config.show,
        num_examples=config.examples,
        strips=open_strips(config.shards, annotation) if config.shards else None,
        matrices=None if videos is None else FrameMatrices(videos, given),
        plots=[path.name for path in curves],
        results_name=results.name,
        queries_name=queries.name,
    )
    publish_text(queries, evaluation.queries_csv())
    publish_json(results, evaluation.as_json())
    return [results, queries, report, *(curves if panels else []), *figures]


def _evaluate(config: PublishedConfig, annotation: Annotation, scores: Scores) -> Outcome:
    outcome = evaluate_scores(
        annotation, scores, protocol=config.protocol, num_resamples=config.bootstrap, seed=config.seed
    )
    if not config.limit:
        return outcome
    left = len(annotation.queries) - outcome.queries.found
    problem = Problem(f"queries without scores, or left out by --limit {config.limit}", left, ())
    return replace(outcome, problems=(*outcome.problems, problem))


def first_queries(given: Sequence[str], annotation: Annotation, limit: int) -> tuple[str, ...]:
    """Of some ids the first ``limit`` queries, in the annotation's order; 0: all as they are."""
    if not limit:
        return tuple(given)
    place_of = {query: place for place, query in enumerate(annotation.queries)}
    known = [query for query in given if annotation.normal_id(query) in place_of]
    return tuple(sorted(known, key=lambda query: place_of[annotation.normal_id(query)])[:limit]) or tuple(given)


def _limited_videos(videos: Videos, annotation: Annotation, limit: int) -> Videos:
    return replace(videos, queries=first_queries(videos.queries, annotation, limit))


def _named(scores: FileScores | MatrixScores, videos: Videos | None) -> tuple[str, str]:
    """Name and description of what was evaluated."""
    if videos is None:
        return str(scores.facts.get("similarities", "similarities")), "similarities from a file"
    metric = videos.settings.metric
    what = "mean pooling; no model" if videos.loaded is None else f"model {videos.loaded.path.name}"
    name = "mean pooling" if videos.loaded is None else videos.aggregator
    return f"{name}, {metric}", f"{what}; {metric}"


def dry_run_text(config: PublishedConfig) -> str:
    """The resolved configuration and what would be done."""
    annotation = config.annotation()
    lines = [json.dumps(as_dict(config), indent=2)]
    size = "any" if annotation.database is None else f"{len(annotation.database):,}"
    lines.append(f"{annotation.dataset}: {len(annotation.queries):,} queries, {size} videos; {config.protocol}")
    lines += [f"note: {problem.text}" for problem in annotation.problems]
    if config.similarities is not None:
        megabytes = config.similarities.stat().st_size / 1e6 if config.similarities.is_file() else 0
        return "\n".join([*lines, f"similarities: {megabytes:.1f} MB, read whole before anything is known of coverage"])
    videos = _limited_videos(open_videos(config, annotation), annotation, config.limit)
    frames = sum(videos.source.num_frames(video_id) for video_id in videos.database)
    pairs = len(videos.queries) * len(videos.database)
    lines.append(
        f"there are features of {len(videos.queries):,} queries and {len(videos.database):,} videos ({frames:,} "
        f"frames); {pairs:,} similarities by {videos.aggregator}, {videos.settings.metric}, take "
        f"{4 * pairs / 1e9:.3f} GB of --max-memory-gb {config.max_memory_gb:g}"
    )
    names = ["chance", *(each.name for each in embedding_baselines(videos))] if config.baselines else []
    return "\n".join([*lines, *([f"baselines: {', '.join(names)}"] if names else [])])
