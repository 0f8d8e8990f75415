"""The command's configuration, and how it becomes tasks, a model and results."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..core.config import as_dict
from ..core.devices import choose_device
from ..core.errors import ReelkinError, UsageError
from ..core.files import sha256_file
from ..core.ids import read_ids
from ..core.tables import read_csv
from ..search.embed import check_model
from .copies import copy_tasks
from .evaluation import default_methods, describe_store, evaluate_tasks, publish_evaluation
from .ground_truth import Task, make_task, read_ground_truth
from .results import Results

if TYPE_CHECKING:
    from ..extract.store import FeatureStore
    from ..train.checkpoint import LoadedModel


STRENGTHS = ("easy", "medium", "hard")
"""The order in which strengths of edits are shown; others follow by name."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a model and the trivial solutions against a ground truth; writes results.json, queries.csv, report.html.

    With --dataset NAME a published benchmark is evaluated instead: see evaluate/run.py --dataset FIVR-5K --help."""

    ground_truth: Path
    """CSV with the heading query,video or video_id,group or file,group, or an edits.csv (copy_id,source_id,strength):
    then there is one task per strength."""
    features: Path
    """Feature store: every video in it is in the database (of copies, see the report: those of one strength)."""
    output: Path
    """Folder for the results."""
    model: Path | None = None
    """Model folder, run folder, or published weights (.pth). Default: only the solutions that need none."""
    index: Path | None = None
    """Index folder, whose model is taken; instead of --model."""
    methods: str = ""
    """Comma-separated: mean-pool, mean-pool-frame, pixels, chance, tca-video (cosine), tca-frame (chamfer),
    tca-symmetric.
    Default: all that the other flags allow, but tca-symmetric."""
    shards: Path | None = None
    """Shards of the same videos: for the pixel baseline and the pictures in the report."""
    queries: Path | None = None
    """File with one video id a line: evaluate only these queries. Default: all."""
    database: Path | None = None
    """File with one video id a line: the database holds only these. Default: the whole store."""
    held_out: Path | None = None
    """File with one group (or source id) a line: evaluate only copies of these; for edits.csv. Default: all."""
    groups: Path | None = None
    """CSV video_id,group (or file,group) naming sources that show the same; for edits.csv. Default: each stands
    alone."""
    split_by: str = ""
    """Column of the ground truth: one task per value. Default: one task (edits.csv: per strength)."""
    count_missing: bool = False
    """Count positives that are not in the store as never found. Default: leave them out; the coverage names them."""
    show: str = ""
    """Method whose matches the report shows. Default: the model's first."""
    examples: int = 8
    """Queries shown in the report with their matches."""
    limit: int = 0
    """Evaluate only the first so many queries of each task; 0: all."""
    max_memory_gb: float = 8.0
    """Bound on frame embeddings held in memory, in 10^9 bytes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where videos are embedded and compared; auto takes a GPU if there is one."""
    title: str = ""
    """Heading of the report. Default: says what was evaluated."""
    seed: int = 0
    """Of the bootstrap intervals."""
    dry_run: bool = False
    """Print the configuration, the tasks and their coverage, and stop."""

    def __post_init__(self) -> None:
        if self.model and self.index:
            raise UsageError(f"--model {self.model} and --index {self.index} both name a model; give one of them")
        if self.limit < 0 or self.examples < 0:
            raise UsageError(f"--limit {self.limit} and --examples {self.examples} must not be negative")

    @property
    def model_path(self) -> Path | None:
        """Where the model lies, if any."""
        return self.index / "model" if self.index else self.model


def run(config: EvaluateConfig) -> Results:
    """Evaluate and publish. Raises UsageError and ReelkinError with what is wrong and where."""
    device = choose_device(config.device)
    store = _open_store(config)
    tasks = make_tasks(config, store.video_ids)
    loaded = _load(config)
    if loaded is not None:
        check_model(loaded.module, store, loaded, store.info)
    shards = None
    if config.shards:
        from ..shards.reader import ShardSet

        shards = ShardSet.open(config.shards)
    results = evaluate_tasks(
        tasks,
        store,
        title=config.title or _title(tasks),
        methods=_methods(config),
        model=loaded.module if loaded else None,
        model_name=loaded.name if loaded else "tca",
        shards=shards,
        max_memory=config.max_memory_gb * 1e9,
        device=device,
        seed=config.seed,
        config=as_dict(config),
        inputs={
            "features": describe_store(store),
            "model": {"config": loaded.config, "sha256": loaded.sha256} if loaded else None,
            "ground_truth_sha256": sha256_file(config.ground_truth),
        },
    )
    names = [method.method.name for method in results.tasks[0].methods]
    if config.show and config.show not in names:
        raise UsageError(f"--show {config.show} is none of the methods evaluated: {', '.join(names)}")
    publish_evaluation(results, config.output, shards=shards, show=config.show or None, num_examples=config.examples)
    return results


def make_tasks(config: EvaluateConfig, store_ids: Sequence[str]) -> list[Task]:
    """The tasks that the flags describe. Raises UsageError and ReelkinError."""
    if config.database is not None:
        kept = set(read_ids(config.database))
        store_ids = [video_id for video_id in store_ids if video_id in kept]
    rows = read_csv(config.ground_truth)
    if {"copy_id", "source_id"} <= set(rows[0]):
        return [_limited(task, config.limit) for task in _copy_tasks(config, rows, store_ids)]
    if config.held_out or config.groups:
        raise UsageError("--held-out and --groups go with an edits.csv; name single queries with --queries")
    truth = read_ground_truth(config.ground_truth, store_ids)
    wanted = None if config.queries is None else set(read_ids(config.queries))
    if not config.split_by:
        task = make_task(truth, store_ids, queries=wanted, count_missing=config.count_missing)
        return [_limited(task, config.limit)]
    if config.split_by not in truth.columns:
        raise UsageError(
            f"--split-by {config.split_by}: {config.ground_truth} has no such column beside those that name videos "
            f"(it has: {', '.join(truth.columns) or 'none'})"
        )
    value_of = truth.columns[config.split_by]
    tasks = []
    for value in sorted({value_of[query] for query in truth.relevant}):
        queries = {q for q in truth.relevant if value_of[q] == value and (wanted is None or q in wanted)}
        if queries & set(store_ids):
            task = make_task(truth, store_ids, queries=queries, count_missing=config.count_missing, name=value)
            tasks.append(_limited(task, config.limit))
    if not tasks:
        raise ReelkinError(f"no query of {config.ground_truth} is in the feature store {config.features}")
    return tasks


def _copy_tasks(config: EvaluateConfig, rows: list[dict[str, str]], store_ids: Sequence[str]) -> list[Task]:
    if config.split_by not in ("", "strength") or config.queries or config.count_missing:
        raise UsageError(
            "--queries, --count-missing and --split-by (other than strength) do not go with an edits.csv; choose "
            "sources with --held-out"
        )
    groups = None
    if config.groups:
        group_rows = read_ground_truth(config.groups, store_ids)
        groups = dict(group_rows.groups)
    held_out = None if config.held_out is None else set(read_ids(config.held_out))
    found = {row.get("strength", "") for row in rows}
    strengths = [*(name for name in STRENGTHS if name in found), *sorted(found - set(STRENGTHS))]
    return copy_tasks(rows, store_ids, groups=groups, strengths=strengths, test_groups=held_out)


def dry_run_text(config: EvaluateConfig) -> str:
    """The resolved configuration and what would be done."""
    store = _open_store(config)
    lines = [json.dumps(as_dict(config), indent=2)]
    for task in make_tasks(config, store.video_ids):
        name = f"{task.name}: " if task.name else ""
        lines.append(f"{name}{len(task.queries)} queries against {len(task.database)} videos; {task.coverage.line}")
    frames = sum(store.num_frames(video_id) for video_id in store.video_ids)
    lines.append(f"frame methods hold {2 * frames * store.dim / 1e9:.3f} GB of frame embeddings")
    loaded = _load(config)
    names = _methods(config) or default_methods(loaded.name if loaded else None, config.shards is not None)
    lines.append(f"methods: {', '.join(names)}")
    return "\n".join(lines)


def _limited(task: Task, limit: int) -> Task:
    from dataclasses import replace

    return replace(task, queries=task.queries[:limit]) if limit else task


def _methods(config: EvaluateConfig) -> list[str] | None:
    names = [name.strip() for name in config.methods.split(",") if name.strip()]
    return names or None


def _title(tasks: Sequence[Task]) -> str:
    if len(tasks) == 1 and not tasks[0].name:
        return "Videos found"
    return (
        "Edited copies found, by strength"
        if {task.name for task in tasks} <= set(STRENGTHS)
        else "Videos found, by group"
    )


def _open_store(config: EvaluateConfig) -> FeatureStore:
    from ..extract.store import FeatureStore

    return FeatureStore.open(config.features)


def _load(config: EvaluateConfig) -> LoadedModel | None:
    from ..train.checkpoint import open_model

    return open_model(config.model_path) if config.model_path else None
