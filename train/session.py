"""A training run from configuration to model folder: what train/run.py does once the flags are read."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.config import as_dict
from ..core.engine import Engine, start
from ..core.errors import ExitCode, ReelkinError, UsageError
from ..core.logs import setup_logging
from .checkpoint import save_model
from .data.sources import open_features
from .recipes import tca, tca_published
from .recipes.effects import PUBLISHED_RULES, TCA_RULES, Rule, without_effect
from .recipes.tca import TcaRecipe
from .recipes.tca_published import TcaPublished
from .running.forecast import forecast
from .running.loop import Outcome
from .running.run_folder import RunFolder, versions

log = logging.getLogger("reelkin.train")


@dataclass(frozen=True)
class Recipe:
    """What can be asked for with ``--recipe``.

    Attributes:
        config: its configuration class; with ``output``, ``backend`` and ``deadline``.
        build: makes its parts.
        example: a command line that runs.
        rules: which of its flags have an effect when.
        resolve: its configuration in the words of recipe ``tca``, once the ranks are known.
    """

    config: type
    build: Callable[..., tca.Built]
    example: str
    rules: tuple[Rule, ...]
    resolve: Callable[[Any, Engine], TcaRecipe] = lambda config, engine: config


RECIPES: dict[str, Recipe] = {
    "tca": Recipe(TcaRecipe, tca.build, tca.EXAMPLE, TCA_RULES),
    "tca-published": Recipe(TcaPublished, tca.build, tca_published.EXAMPLE, PUBLISHED_RULES, TcaPublished.resolve),
}
PUBLISHED_FLAGS = frozenset(
    {"--annotation_path", "--annotation-path", "-ap", "--feature_path", "--feature-path", "-fp"}
    | {"--model_path", "--model-path", "-mp"}
)
"""Of the published command line, which has no ``--recipe``; its recipe is known by any of these."""


def recipe_named(arguments: list[str]) -> Recipe:
    """The recipe that ``--recipe`` names among the flags; without one, tca, or the published command's if it is one.

    Raises:
        UsageError: there is no such recipe.
    """
    flags = [word.partition("=")[0] for word in arguments]
    name = "tca-published" if PUBLISHED_FLAGS.intersection(flags) else "tca"
    for position, word in enumerate(arguments):
        if word == "--recipe" and position + 1 < len(arguments):
            name = arguments[position + 1]
        elif word.startswith("--recipe="):
            name = word.partition("=")[2]
    if name not in RECIPES:
        raise UsageError(f"--recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def run(recipe: Recipe, config: Any) -> int:
    """Train by the recipe's configuration, under whatever launcher started this process; returns the exit code.

    However the run ends, short of being killed, outcome.json in the run folder says how; a start that fails leaves the
    outcome of an earlier run there as it is.
    """
    folder = RunFolder(config.output)
    with start(config.backend, config.deadline) as engine:
        setup_logging(engine.rank)
        if not config.dry_run:
            engine.when_others_fail(lambda reason, usage: folder.note_failure(_failed(usage), reason))
        if engine.is_main and (idle := without_effect(config, recipe.rules, engine.size)):
            log.warning("without effect: %s", idle)
        try:
            outcome = _run(recipe, recipe.resolve(config, engine), engine, folder)
        except Exception as error:
            told = _told(error)
            if engine.is_main and not config.dry_run:
                code = _failed(usage=isinstance(told, UsageError))
                folder.write_failure(code, f"{type(told).__name__}: {told}")
            if told is not error:
                raise told from error
            raise
        return int(outcome.exit_code if outcome else ExitCode.OK)


def _told(error: Exception) -> Exception:
    """Memory that ran out, of the CPU or a GPU, as an error for a person; any other error as it is."""
    if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
        return error
    first = (str(error).splitlines() or ["MemoryError"])[0]
    return ReelkinError(
        f"out of memory ({first}). Lower the batch size, the frames of a video, the drawn negatives or the queue; "
        "recipe tca also has --accumulation and --frames-at-once. --dry-run says what a run takes"
    )


def _failed(usage: bool) -> int:
    return int(ExitCode.USAGE if usage else ExitCode.FAILED)


def _run(recipe: Recipe, config: TcaRecipe, engine: Engine, folder: RunFolder) -> Outcome | None:
    store = open_features(config.features, config.pca_components)
    built = recipe.build(config, store, engine)
    trainer = built.trainer
    ranks = {"ranks": engine.size, "backend": engine.backend}
    if engine.is_main:
        described = {"config": as_dict(config), "steps": trainer.steps, "versions": versions(), **ranks}
        for finding in built.findings:
            log.warning("%s", finding)
        log.info("%s", built.positives.summary)
        log.info("%d steps of %d anchors, %d ranks (%s)", trainer.steps, config.batch_size, engine.size, engine.backend)
        trainer.before_first_step = lambda: folder.announce({**described, "identity": trainer.identity})
    if config.dry_run:
        text = forecast(trainer)
        if engine.is_main:
            print(json.dumps(as_dict(config), indent=2))
            print(f"{built.positives.summary}\n{text}")
        return None
    trainer.save_best = lambda model, facts: save_model(model, folder.best, {**built.facts, **facts})

    def conclude(outcome: Outcome) -> None:
        if outcome.exit_code == ExitCode.OK:
            save_model(trainer.task.model, folder.model, {**built.facts, "weights": outcome.weights_sha256})
        facts: dict[str, Any] = {"steps": outcome.steps, "weights_sha256": outcome.weights_sha256, **ranks}
        folder.write_outcome(int(outcome.exit_code), outcome.reason, **facts)
        log.info("%s after %d steps: %s", outcome.reason, outcome.steps, folder.path)

    trainer.conclude = conclude
    return trainer.train()
