"""A flag is named as without effect exactly where the run is the same without it."""

from __future__ import annotations

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import pytest

from reelkin.core.engine import start
from reelkin.train.data.sources import open_features
from reelkin.train.models.aggregators import AggregatorSettings
from reelkin.train.recipes.effects import PUBLISHED_RULES, TCA_RULES, Rule, without_effect
from reelkin.train.recipes.tca import TcaRecipe, build
from reelkin.train.recipes.tca_published import TcaPublished
from reelkin.train.session import RECIPES, run

from .conftest import Data, write_csv

ALWAYS = {
    "features", "pca_components", "recipe", "output", "steps", "batch_size", "accumulation", "lr", "warmup_steps",
    "weight_decay", "clip_norm", "log_every", "seed", "checkpoint_every", "keep_checkpoints", "log_to", "resume",
    "dry_run", "threads", "backend", "pairs", "groups", "copies", "vcdb", "pseudo_labels", "validate_groups",
    "validate_pairs", "hold_out", "drop_last", "feature_edits", "virtual_scenes", "max_frames", "random_sampling",
    "negatives_per_anchor", "num_workers", "loss", "mining", "queue_size", "momentum", "batch_negatives", "precision",
    "frames_at_once",
}  # fmt: skip
REFUSED = {field.name for field in dataclasses.fields(AggregatorSettings)} - {"dropout"} | {"negatives", "patience"}
"""Refused where they have no effect, which other tests show."""
PUBLISHED_ALWAYS = {
    "annotation_path", "feature_path", "model_path", "output_dim", "num_layers", "neg_num", "epochs", "batch_sz",
    "learning_rate", "weight_decay", "pca_components", "padding_size", "random_sampling", "num_workers", "moco_k",
    "moco_m", "moco_t", "print_freq", "validate_groups", "max_missing_share", "recipe", "seed", "checkpoint_every",
    "keep_checkpoints", "log_to", "resume", "dry_run", "threads", "backend", "stop_after", "patience",
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "rules", "others"),
    [(TcaRecipe, TCA_RULES, ALWAYS | REFUSED), (TcaPublished, PUBLISHED_RULES, PUBLISHED_ALWAYS)],
)
def test_every_flag_is_accounted_for_once(config: type, rules: tuple[Rule, ...], others: set[str]) -> None:
    ruled = [name for rule in rules for name in rule.flags]
    assert len(ruled) == len(set(ruled)) and not others & set(ruled)
    assert others | set(ruled) == {field.name for field in dataclasses.fields(config)}


GRU = {"aggregator": "gru", "output_dim": 8}
TRAINED: list[tuple[str, Any, dict[str, Any], dict[str, Any]]] = [
    # flag, value, under which it has no effect, under which it has one
    ("temperature", 0.3, {"loss": "circle"}, {"loss": "info-nce"}),
    ("temperature", 0.3, {"loss": "triplet"}, {"loss": "supcon"}),
    ("circle_margin", 0.4, {"loss": "info-nce"}, {"loss": "circle"}),
    ("circle_gamma", 64.0, {"loss": "supcon"}, {"loss": "circle-legacy"}),
    ("triplet_margin", 0.5, {"loss": "circle"}, {"loss": "triplet"}),
    ("mined_negatives", 5, {}, {"mining": "topk"}),
    ("mined_share_start", 0.5, {}, {"mining": "topk", "mined_negatives": 5}),
    ("mined_share_end", 0.0, {}, {"mining": "topk", "mined_negatives": 5}),
    ("mining_from", "background", {}, {"mining": "topk", "mined_negatives": 5}),
    ("mining_from", "background", {"mining": "topk", "mined_share_start": 0.0, "mined_negatives": 5},
     {"mining": "topk", "mined_share_start": 0.0, "mined_share_end": 1.0, "mined_negatives": 5}),
    ("mining_margin", 0.01, {"mining": "topk"}, {"mining": "semi-hard", "mined_negatives": 24}),
    ("mining_margin", 0.01, {"mining": "semi-hard", "mined_share_start": 0.0}, {"mining": "semi-hard"}),
    ("mining_cutoff", 1.3, {"mining": "topk"}, {"mining": "distance-weighted", "mined_negatives": 5}),
    ("queue_positives", False, {"queue_size": 0}, {}),
    ("optimizer", "adam", {"weight_decay": 0.0}, {"weight_decay": 0.1}),
    ("weight_decay_on", "all", {"weight_decay": 0.0}, {"weight_decay": 0.1}),
    ("swap_pairs", False, {"labels": "copies"}, {}),
    ("dropout", 0.5, {**GRU, "num_layers": 1}, {**GRU, "num_layers": 2}),
    ("schedule", "constant", {"warmup_steps": 4}, {"warmup_steps": 1}),
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The digest of a model after four steps under some flags, and whether one of them is said to be idle."""
    folder = tmp_path_factory.mktemp("effects")
    scenes = [f"s{scene:02d}" for scene in range(8)]  # of 16: the others are background
    pairs = write_csv(folder / "pairs.csv", ("query", "video"), *((s, f"{s}__{n}") for s in scenes for n in (1, 2)))
    numbers = iter(range(10**6))

    @functools.cache
    def trained(fields: tuple[tuple[str, Any], ...]) -> tuple[str, str]:
        given = dict(fields)
        labels = {"copies": data.copies} if given.pop("labels", "") == "copies" else {"pairs": pairs}
        config = TcaRecipe(
            features=data.store, output=folder / str(next(numbers)), num_workers=0, threads=1,
            **{"steps": 4, "batch_size": 8, "queue_size": 16, "warmup_steps": 0, "negatives_per_anchor": 1,
               "feature_edits": "none", **labels, **given},
        )  # fmt: skip
        with start("single") as engine:
            trainer = build(config, open_features(config.features), engine).trainer
            trainer.train()
            return engine.digest(trainer.task.model), without_effect(config, TCA_RULES, 1)

    return lambda **fields: trained(tuple(sorted(fields.items())))


@pytest.mark.parametrize(("flag", "value", "idle", "active"), TRAINED)
def test_the_weights_are_the_same_without_what_is_said_to_be_idle(
    weights: Any, flag: str, value: Any, idle: dict[str, Any], active: dict[str, Any]
) -> None:
    words = f"--{flag}".replace("_", "-") if value is not False else f"--no-{flag}".replace("_", "-")
    (without, _), (with_it, said) = weights(**idle), weights(**idle, **{flag: value})
    assert said.startswith(words) and without == with_it
    (without, _), (with_it, said) = weights(**active), weights(**active, **{flag: value})
    assert words not in said and without != with_it


PATHS = {"features": Path("f"), "output": Path("o")}


@pytest.mark.parametrize(
    ("fields", "ranks", "said"),
    [
        ({"validate_every": 7}, 1, "--validate-every 7 (only with held-out videos, such as --validate-groups FILE)"),
        ({"validate_every": 7, "validate_pairs": Path("p")}, 1, ""),
        ({"validate_every": 7, "copies": Path("c"), "hold_out": 0.2}, 1, ""),
        ({"allow_changes": True, "resume": "never"}, 1, "--allow-changes (only with --resume auto)"),
        ({"allow_changes": True}, 1, ""),
        ({"deadline": 9.0, "compression": "fp16", "reduction": "adasum"}, 1,
         "--deadline 9.0 (only with several ranks); --compression fp16, --reduction adasum (only with several ranks)"),
        ({"deadline": 9.0, "compression": "fp16", "reduction": "adasum"}, 2, ""),
        ({"epochs": 3.0, "steps": 50}, 1, "--epochs 3.0 (--steps says how long)"),
        ({"epochs": 3.0}, 1, ""),
        ({"stop_after": 50, "steps": 50}, 1, "--stop-after 50 (only below --steps)"),
        ({"stop_after": 49, "steps": 50}, 1, ""),
        ({"stop_after": 50}, 1, ""),
        ({"max_missing_share": 0.5}, 1, "--max-missing-share 0.5 (only with a label file)"),
        ({"max_missing_share": 0.5, "groups": Path("g")}, 1, ""),
        ({"swap_pairs": False, "vcdb": Path("v")}, 1, ""),
        ({"circle_margin": 0.25}, 1, ""),  # the default: who gave it is not known, and it changes nothing
    ],
)  # fmt: skip
def test_what_concerns_the_run_is_named_under_the_same_rule(fields: dict[str, Any], ranks: int, said: str) -> None:
    assert without_effect(TcaRecipe(**PATHS, **fields), TCA_RULES, ranks) == said


def test_all_of_it_stands_in_one_line_at_the_start(
    data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {
        "features": data.store, "copies": data.copies, "output": tmp_path, "steps": 1, "batch_size": 4, "threads": 1,
    }  # fmt: skip
    logger = logging.getLogger("reelkin.train")
    logger.addHandler(caplog.handler)  # a command's log does not go on to pytest's
    try:
        assert run(RECIPES["tca"], TcaRecipe(**given, circle_gamma=64.0, mined_negatives=3)) == 0
        assert run(RECIPES["tca"], TcaRecipe(**{**given, "output": tmp_path / "quiet"})) == 0
    finally:
        logger.removeHandler(caplog.handler)
    assert [text for text in caplog.messages if "without effect" in text] == [
        "without effect: --circle-gamma 64.0 (only with --loss circle, circle-legacy); "
        "--mined-negatives 3 (only with a --mining; none takes every negative)"
    ]
    assert "without effect" in caplog.messages[0]
