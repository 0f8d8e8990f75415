"""Which flags have an effect under which others: tables, and the line that names what was given in vain.

A flag that stands in no table has an effect always, or is refused where it has none (the options of another aggregator,
``--negatives`` without ``--negatives-per-anchor``, ``--patience`` without held-out videos).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from ..objective.losses import TEMPERATURES


@dataclasses.dataclass(frozen=True)
class Rule:
    """When some flags have an effect.

    Attributes:
        flags: fields of a recipe's configuration.
        why: what they need, or why they have none, for people.
        works: whether they have an effect, by the configuration and the number of ranks.
    """

    flags: tuple[str, ...]
    why: str
    works: Callable[[Any, int], bool]


def _held_out(config: Any, ranks: int) -> bool:
    return any(getattr(config, name, None) for name in ("validate_groups", "validate_pairs", "hold_out"))


def _several(config: Any, ranks: int) -> bool:
    return ranks > 1


def _never(config: Any, ranks: int) -> bool:
    return False


def _mines(config: Any) -> bool:
    return config.mining != "none" and bool(config.mined_share_start or config.mined_share_end)


RUN_RULES = (
    Rule(("validate_every",), "only with held-out videos, such as --validate-groups FILE", _held_out),
    Rule(("allow_changes",), "only with --resume auto", lambda config, ranks: config.resume == "auto"),
    Rule(("deadline",), "only with several ranks", _several),
)
"""Of every recipe."""

TCA_RULES = (
    *RUN_RULES,
    Rule(("compression", "reduction"), "only with several ranks", _several),
    Rule(("epochs",), "--steps says how long", lambda config, ranks: config.steps is None),
    Rule(
        ("stop_after",),
        "only below --steps",
        lambda config, ranks: config.steps is None or config.stop_after < config.steps,
    ),
    Rule(
        ("schedule",),
        "only with --steps above --warmup-steps",
        lambda config, ranks: config.steps is None or config.steps > config.warmup_steps,
    ),
    Rule(
        ("optimizer", "weight_decay_on"),
        "only with --weight-decay above 0",
        lambda config, ranks: config.weight_decay > 0,
    ),
    Rule(
        ("swap_pairs",),
        "only with --pairs or --vcdb",
        lambda config, ranks: config.pairs is not None or config.vcdb is not None,
    ),
    Rule(("max_missing_share",), "only with a label file", lambda config, ranks: config.labelled()),
    Rule(
        ("dropout",),
        "only between layers, so with --num-layers 2 or more",
        lambda config, ranks: config.aggregator not in ("lstm", "gru") or config.num_layers != 1,
    ),
    Rule(
        ("temperature",),
        f"only with --loss {', '.join(TEMPERATURES)}",
        lambda config, ranks: config.loss in TEMPERATURES,
    ),
    Rule(
        ("circle_margin", "circle_gamma"),
        "only with --loss circle, circle-legacy",
        lambda config, ranks: config.loss in ("circle", "circle-legacy"),
    ),
    Rule(("triplet_margin",), "only with --loss triplet", lambda config, ranks: config.loss == "triplet"),
    Rule(
        ("mined_negatives", "mined_share_start", "mined_share_end"),
        "only with a --mining; none takes every negative",
        lambda config, ranks: config.mining != "none",
    ),
    Rule(("mining_from",), "only with a --mining and a mined share above 0", lambda config, ranks: _mines(config)),
    Rule(
        ("mining_margin",),
        "only with --mining semi-hard and a mined share above 0",
        lambda config, ranks: config.mining == "semi-hard" and _mines(config),
    ),
    Rule(
        ("mining_cutoff",),
        "only with --mining distance-weighted and a mined share above 0",
        lambda config, ranks: config.mining == "distance-weighted" and _mines(config),
    ),
    Rule(("queue_positives",), "only with --queue-size above 0", lambda config, ranks: config.queue_size > 0),
)
"""Of recipe ``tca``."""

PUBLISHED_RULES = (
    *RUN_RULES,
    Rule(("num_clusters", "normalize_input"), "as published: of NetVLAD, not of TCA", _never),
    Rule(("momentum",), "as published: the optimizer is Adam", _never),
    Rule(("num_readers",), "as published", _never),
    Rule(("use_adasum", "fp16_allreduce"), "only with several ranks", _several),
)
"""Of recipe ``tca-published``."""


def without_effect(config: Any, rules: tuple[Rule, ...], ranks: int) -> str:
    """The flags that were given another value than their default and have no effect, with the reason; "" for none.

    For example ``--circle-gamma 64.0 (only with --loss circle, circle-legacy); --dropout 0.5 (...)``.

    Args:
        config: a recipe's configuration.
        rules: the recipe's.
        ranks: how many there are.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    found = []
    for rule in rules:
        given = [name for name in rule.flags if getattr(config, name) != defaults[name]]
        if given and not rule.works(config, ranks):
            found.append(f"{', '.join(_as_flag(name, getattr(config, name)) for name in given)} ({rule.why})")
    return "; ".join(found)


def _as_flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"
