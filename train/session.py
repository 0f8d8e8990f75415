"""A training run from configuration to model folder: what train/run.py does once the flags are read."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..core.config import as_dict
from ..core.engine import Engine, start
from ..core.errors import ExitCode, UsageError
from ..core.logs import setup_logging
from ..extract.store import FeatureStore
from .checkpoint import save_model
from .recipes import tca
from .recipes.tca import TcaRecipe
from .running.loop import Outcome
from .running.run_folder import RunFolder, versions

log = logging.getLogger("reelkin.train")


@dataclass(frozen=True)
class Recipe:
    """A recipe's configuration class and the function that builds its parts."""

    config: type
    build: Callable[..., tca.Built]


RECIPES: dict[str, Recipe] = {"tca": Recipe(TcaRecipe, tca.build)}


def recipe_named(arguments: list[str]) -> Recipe:
    """The recipe that ``--recipe`` names among the flags; tca without one.

    Raises:
        UsageError: there is no such recipe.
    """
    name = "tca"
    for position, word in enumerate(arguments):
        if word == "--recipe" and position + 1 < len(arguments):
            name = arguments[position + 1]
        elif word.startswith("--recipe="):
            name = word.partition("=")[2]
    if name not in RECIPES:
        raise UsageError(f"--recipe {name!r} is unknown; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def run(recipe: Recipe, config: TcaRecipe) -> int:
    """Train, under whatever launcher started this process; returns the exit code.

    However the run ends, short of being killed, outcome.json in the run folder says how; a start that fails leaves the
    outcome of an earlier run there as it is.
    """
    folder = RunFolder(config.output)
    with start(config.backend, config.deadline) as engine:
        setup_logging(engine.rank)
        try:
            outcome = _run(recipe, config, engine, folder)
        except Exception as error:
            if engine.is_main:
                code = ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED
                folder.write_failure(int(code), f"{type(error).__name__}: {error}")
            raise
        return int(outcome.exit_code)


def _run(recipe: Recipe, config: TcaRecipe, engine: Engine, folder: RunFolder) -> Outcome:
    store = FeatureStore.open(config.features)
    built = recipe.build(config, store, engine)
    trainer = built.trainer
    ranks = {"ranks": engine.size, "backend": engine.backend}
    if engine.is_main:
        described = {"config": as_dict(config), "steps": trainer.steps, "versions": versions(), **ranks}
        log.info("%s", built.positives.summary)
        log.info("%d steps of %d anchors, %d ranks (%s)", trainer.steps, config.batch_size, engine.size, engine.backend)
        trainer.before_first_step = lambda: folder.announce({**described, "identity": trainer.identity})
    outcome = trainer.train()
    if engine.is_main:
        if outcome.exit_code == ExitCode.OK:
            save_model(trainer.task.model, folder.model, {**built.facts, "weights": outcome.weights_sha256})
        facts: dict[str, Any] = {"steps": outcome.steps, "weights_sha256": outcome.weights_sha256, **ranks}
        folder.write_outcome(int(outcome.exit_code), outcome.reason, **facts)
        log.info("%s after %d steps: %s", outcome.reason, outcome.steps, folder.path)
    return outcome
