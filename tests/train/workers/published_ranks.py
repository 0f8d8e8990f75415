"""A run of the published command line in float64 without dropout, whose batches and weights are kept; any launcher.

published_ranks.py FOLDER FLAGS...: writes FOLDER/seen-RANK.pt.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reelkin.core.config import parse
from reelkin.core.engine import start
from reelkin.train.data.batches import Batch
from reelkin.train.data.sources import open_features
from reelkin.train.recipes.tca import build
from reelkin.train.recipes.tca_published import TcaPublished


def record(folder: Path, flags: Sequence[str]) -> None:
    """Run, and keep what this rank saw: the weights before and after, and of every step its batch, loss and rate."""
    published = parse(TcaPublished, flags, prog="published_ranks.py", example="-")
    with start() as engine:
        config = dataclasses.replace(published.resolve(engine), dropout=0.0)
        trainer = build(config, open_features(config.features, config.pca_components), engine).trainer
        task = trainer.task
        task.model.double()
        task.key_encoder.module.double()
        task.queue.keys = task.queue.keys.double()
        seen: dict[str, Any] = {"before": {k: v.clone() for k, v in task.model.state_dict().items()}, "steps": []}
        losses = task.losses

        def kept(batch: Batch, parts: int) -> Any:
            views = {name: getattr(batch, name).padded()[:2] for name in ("anchors", "positives", "negatives")}
            step: dict[str, Any] = {"views": {name: (x.double(), n) for name, (x, n) in views.items()}}
            for part in losses(batch, parts):
                step["loss"] = float(part.per_anchor.detach().mean())
                yield part
            seen["steps"].append(step)

        def updated() -> None:
            seen["steps"][-1]["lr"] = trainer.optimizer.param_groups[0]["lr"]
            move()

        move, task.losses, task.updated = task.updated, kept, updated
        trainer.train()
        seen["after"] = task.model.state_dict()
        seen["steps_per_epoch"] = trainer.steps // int(config.epochs)
        folder.mkdir(exist_ok=True, parents=True)
        torch.save(seen, folder / f"seen-{engine.rank}.pt")


if __name__ == "__main__":
    record(Path(sys.argv[1]), sys.argv[2:])
