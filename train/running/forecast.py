"""What a run will cost, measured on its first steps: for ``--dry-run``."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from typing import Any

import torch

from ...core.progress import in_words
from .loop import Trainer

TRIAL_STEPS = 2


def forecast(trainer: Trainer) -> str:
    """Go through the first steps, all ranks together, without updating or writing anything; returns lines to show.

    The second step stands for all: the first one pays for what is set up once. Memory is that of the largest rank.
    """
    steps = min(TRIAL_STEPS, trainer.steps)
    trainer.task.model.train()
    batches = trainer.task.batches(range(steps))
    seconds = 0.0
    try:
        for _ in range(steps):
            started = time.monotonic()
            trainer.backward(next(batches))
            trainer.engine.synchronize(trainer.optimizer)
            trainer.optimizer.zero_grad(set_to_none=True)
            seconds = time.monotonic() - started
    finally:
        getattr(batches, "close", lambda: None)()
    # What the trial did not need yet: the optimizer's two numbers a parameter, the best model, the queue's pages.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    parameters, queue = _bytes(trainer.task.model.state_dict()), _bytes(trainer.task.state_dict())
    peak += 2 * parameters + queue
    worst = trainer.engine.all_reduce(torch.tensor([seconds, float(peak)], dtype=torch.float64), "forecast", op="max")
    checkpoint = checkpoint_bytes(trainer)
    saving = worst[1].item() + parameters + queue + checkpoint
    return (
        f"{trainer.steps} steps of {trainer.config.batch_size} anchors on {trainer.engine.size} ranks: about "
        f"{in_words(worst[0].item() * trainer.steps)} ({worst[0].item():.2f} s a step), without validation and "
        f"checkpoints\nmemory {worst[1].item() / 1e9:.2f} GB a rank, on the first up to {saving / 1e9:.2f} GB while it "
        f"saves; disk {checkpoint / 1e6:.0f} MB a checkpoint, {trainer.config.keep_checkpoints + 1} at most"
    )


def checkpoint_bytes(trainer: Trainer) -> int:
    """Size of a checkpoint once the optimizer has made a step, for which Adam keeps two numbers a parameter, and the
    best validation's model is there, if there is anything to validate on."""
    parameters = sum(each.numel() * each.element_size() for each in trainer.task.model.parameters())
    best = _bytes(trainer.task.model.state_dict()) if getattr(trainer.task, "validator", None) is not None else 0
    return _bytes(trainer.state([])) + 2 * parameters + best


def _bytes(tree: Any) -> int:
    if isinstance(tree, torch.Tensor):
        return tree.numel() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(map(_bytes, tree.values()))
    return sum(map(_bytes, tree)) if isinstance(tree, (list, tuple)) else 0
