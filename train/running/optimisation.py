"""The optimizer and the learning rate of every update."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn

from ...core.errors import UsageError
from .settings import LoopConfig


def build_optimizer(model: nn.Module, config: LoopConfig) -> torch.optim.Optimizer:
    """Adam or AdamW over what the model trains.

    Raises:
        UsageError: the model has nothing to train.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError("this aggregator has no parameter, so there is nothing to train; use it without training")
    decayed = [p for p in parameters if p.ndim >= 2 or config.weight_decay_on == "all"]
    others = [p for p in parameters if p.ndim < 2 and config.weight_decay_on != "all"]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind([group for group in groups if group["params"]], lr=config.lr)


def learning_rate(config: LoopConfig, step: int, steps: int, epoch_of: Callable[[int], float] | None = None) -> float:
    """Rate of the update that follows ``step`` updates out of ``steps``.

    Args:
        config: peak rate, schedule and warm-up.
        step: updates done, 0 to ``steps`` - 1.
        steps: updates in all.
        epoch_of: epochs that so many updates make; ``cosine-epochs`` needs it.

    Returns:
        Above 0. Under ``cosine-epochs`` it is ``lr / 2 * (1 + cos(pi * e / E))`` in the whole of epoch e = 0 .. E - 1
        of E: what torch's CosineAnnealingLR with ``T_max=E`` gives when it is stepped once an epoch.

    Raises:
        UsageError: the schedule goes by epochs and the task has none.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "cosine-epochs":
        if epoch_of is None:
            raise UsageError("--schedule cosine-epochs: this task has no epochs; choose cosine")
        share = math.floor(epoch_of(step)) / max(1, math.ceil(epoch_of(steps) if config.steps else config.epochs))
    else:
        share = (step - config.warmup_steps) / max(1, steps - config.warmup_steps)
    return config.lr * 0.5 * (1 + math.cos(math.pi * share))
