"""An evaluation on a published benchmark, from the configuration to the files: what evaluate/run.py --dataset does."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
from ..reporting.page import Strips
from .annotation import Annotation, Problem
from .baselines import Chance, embedding_baselines
from .config import PublishedConfig
from .embedding_scores import MatrixScores
from .examples import FrameMatrices, open_strips
from .measures import Present
from .outcome import Outcome
from .protocols import make_measures
from .publishing import Evaluation, System, check_writable, hash_of_ids
from .saved_scores import SavedFile, write_scores
from .scores import Videos, open_videos
from .scoring import LOST, Scores, evaluate_scores
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
        config.check_apart()
    with start(config.backend, config.deadline, config.device) as engine:
        setup_logging(engine.rank)
        if config.without_effect:
            log.info("without effect on finished similarities: %s", ", ".join(config.without_effect))
        annotation = config.annotation()
        _check_show(config, annotation)
        strips = open_strips(config.shards, annotation) if config.shards else None
        session = _Session(config, annotation, engine, strips)
        if config.similarities is None:
            session.score_features()
        else:
            session.on_main(session.score_file)
    return int(ExitCode.OK)


def _check_show(config: PublishedConfig, annotation: Annotation) -> None:
    """Refuse, before any work, a measure to show that has no values per query."""
    measures = make_measures(annotation, Present(frozenset(), frozenset()), config.protocol)
    names = [measure.name for measure in measures if not measure.pooled]
    if config.show and config.show not in names:
        raise UsageError(f"--show {config.show} is none of the measures over queries: {', '.join(names)}")


@dataclass(frozen=True)
class _Session:
    """What all steps need; everything that can be refused before any work has been looked at."""

    config: PublishedConfig
    annotation: Annotation
    engine: Engine
    strips: Strips | None

    def on_main(self, work: Callable[[], None]) -> None:
        """Rank 0's part, for which the others wait; what it raises is raised on all."""
        with self.engine.extend_deadline(ALONE_SECONDS):
            self.engine.on_main(work, "the figures")

    def score_file(self) -> None:
        """Finished similarities. Rank 0 alone calls it."""
        assert self.config.similarities is not None
        scores = read_similarities(self.config.similarities, self.config.max_bytes)
        queries = first_queries(scores.queries, self.annotation, self.config.limit)
        name = str(scores.facts.get("similarities", "similarities"))
        self._conclude(name, "similarities from a file", replace(scores, queries=queries))

    def score_features(self) -> None:
        """Features compared by a model, beside what needs no training. All ranks call it."""
        config = self.config
        videos = _limited(open_videos(config, self.annotation), self.annotation, config.limit)
        baselines: list[System] = []

        def keep(name: str, description: str, scores: MatrixScores | None) -> None:
            assert scores is not None
            baselines.append(System(name, description, self._evaluate(scores)))

        # One matrix of similarities is held at a time.
        for each in embedding_baselines(videos) if config.baselines else ():
            scores = videos.score(self.engine, model=each.model, metric=each.metric)
            self.on_main(partial(keep, each.name, each.description, scores))
            del scores
        own = videos.score(self.engine)
        what = "no model" if videos.loaded is None else f"model {videos.loaded.path.name}"

        def conclude() -> None:
            assert own is not None
            self._conclude(_name(videos), f"{what}; {config.metric}", own, videos, baselines)

        self.on_main(conclude)

    def _evaluate(self, scores: Scores) -> Outcome:
        config = self.config
        outcome = evaluate_scores(
            self.annotation, scores, protocol=config.protocol, num_resamples=config.bootstrap, seed=config.seed
        )
        if not config.limit:
            return outcome
        left = len(self.annotation.queries) - outcome.queries.found
        others = [problem for problem in outcome.problems if problem.kind != LOST]  # it would name those left out
        problem = Problem(f"queries without scores, or left out by --limit {config.limit}", left, ())
        return replace(outcome, problems=(*others, problem))

    def _conclude(
        self,
        name: str,
        description: str,
        scores: FileScores | MatrixScores,
        videos: Videos | None = None,
        baselines: Sequence[System] = (),
    ) -> None:
        """Figures on the terminal, then files."""
        config = self.config
        system = System(name, description, self._evaluate(scores))
        if config.baselines:
            tied = config.protocol == "corrected"
            text = "the same score for every video: the mean over all rankings" if tied else "one random ranking each"
            baselines = (*baselines, System("chance", text, self._evaluate(Chance(scores, tied, config.seed))))
        evaluation = Evaluation(
            system=system,
            baselines=baselines,
            groups=self.annotation.groups,
            database_sha256=hash_of_ids(self.annotation, scores.database),
            config=as_dict(config),
        )
        print(evaluation.text(), flush=True)
        if config.results_path is not None:
            written = self._publish(config.results_path, evaluation, scores, videos)
            print(f"written, of {system.outcome.coverage}: {', '.join(map(str, written))}")

    def _publish(
        self, results: Path, evaluation: Evaluation, scores: FileScores | MatrixScores, videos: Videos | None
    ) -> list[Path]:
        """Write the plots, the report, the table and, last, the results; gives their paths. Raises ReelkinError."""
        config, outcome = self.config, evaluation.system.outcome

        def beside(name: str) -> Path:
            return results.with_name(config.beside(name))

        report, queries = beside("report.html"), beside("queries.csv")
        curves, figures = ([beside(f"{name}.{kind}") for kind in plots.FORMATS] for name in ("curves", "figures"))
        caption = f"{outcome.dataset} ({outcome.protocol}): {outcome.coverage}"
        panels = curve_panels(evaluation)
        if panels:
            plots.write_curves(panels, curves, caption)
        plots.write_dots(figure_panels(evaluation), figures, caption)
        normal_id = self.annotation.normal_id
        given = {normal_id(video_id): video_id for video_id in (*scores.database, *scores.queries)}
        write_report(
            evaluation,
            report,
            title=config.title,
            show=config.show,
            num_examples=config.examples,
            strips=self.strips,
            matrices=None if videos is None else FrameMatrices(videos, given, self.engine.device),
            plots=[path.name for path in curves],
            results_name=results.name,
            queries_name=queries.name,
        )
        publish_text(queries, evaluation.queries_csv())
        saved = self._save(beside("scores.safetensors"), scores)
        publish_json(results, replace(evaluation, scores=saved).as_json())
        kept = [] if saved is None else [results.with_name(saved.name)]
        return [results, queries, report, *kept, *(curves if panels else []), *figures]

    def _save(self, path: Path, scores: FileScores | MatrixScores) -> SavedFile | None:
        """The scores, for comparisons; none if they are not wanted."""
        config = self.config
        if not config.scores_gb:
            return None
        ordered = config.protocol == "legacy"
        return write_scores(path, self.annotation, scores, int(config.scores_gb * 1e9), ordered=ordered)


def first_queries(given: Sequence[str], annotation: Annotation, limit: int) -> tuple[str, ...]:
    """Of some ids the first ``limit`` queries, in the annotation's order; 0, or none of them a query: all as they
    are."""
    if not limit:
        return tuple(given)
    place_of = {query: place for place, query in enumerate(annotation.queries)}
    known = [query for query in given if annotation.normal_id(query) in place_of]
    return tuple(sorted(known, key=lambda query: place_of[annotation.normal_id(query)])[:limit]) or tuple(given)


def _limited(videos: Videos, annotation: Annotation, limit: int) -> Videos:
    return replace(videos, queries=first_queries(videos.queries, annotation, limit))


def _name(videos: Videos) -> str:
    return f"{'mean pooling' if videos.loaded is None else videos.aggregator}, {videos.settings.metric}"


def dry_run_text(config: PublishedConfig) -> str:
    """The resolved configuration and what would be done."""
    annotation = config.annotation()
    lines = [json.dumps(as_dict(config), indent=2)]
    size = "any" if annotation.database is None else f"{len(annotation.database):,}"
    lines.append(f"{annotation.dataset}: {len(annotation.queries):,} queries, {size} videos; {config.protocol}")
    lines += [f"note: {problem.text}" for problem in annotation.problems]
    if config.similarities is not None:
        if not config.similarities.is_file():
            raise UsageError(f"--similarities {config.similarities} is no file")
        megabytes = config.similarities.stat().st_size / 1e6
        return "\n".join([*lines, f"similarities: {megabytes:.1f} MB, read whole before anything is known of coverage"])
    videos = _limited(open_videos(config, annotation), annotation, config.limit)
    frames = sum(videos.source.num_frames(video_id) for video_id in videos.database)
    pairs = len(videos.queries) * len(videos.database)
    lines.append(
        f"there are features of {len(videos.queries):,} queries and {len(videos.database):,} videos ({frames:,} "
        f"frames); {pairs:,} similarities by {_name(videos)}, take {4 * pairs / 1e9:.3f} GB of --max-memory-gb "
        f"{config.max_memory_gb:g}"
    )
    names = ["chance", *(each.name for each in embedding_baselines(videos))] if config.baselines else []
    return "\n".join([*lines, *([f"baselines: {', '.join(names)}"] if names else [])])
