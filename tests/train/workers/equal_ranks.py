"""Losses, gradients and the weights after some updates, in float64, as JSON lines and a tensor file; any launcher."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from reelkin.core.engine import start
from reelkin.extract.store import FeatureStore
from reelkin.train.recipes.tca import TcaRecipe, build


def main(store: str, copies: str, output: str, loss: str) -> None:
    config = TcaRecipe(
        features=Path(store), copies=Path(copies), output=Path(output), loss=loss, batch_size=11, steps=4, lr=1e-3,
        queue_size=40, negatives_per_anchor=1, feedforward=32, dropout=0.3, mining="topk", mined_negatives=9,
        momentum=0.5, warmup_steps=0, threads=1, init="published", weight_decay=0.0,
    )  # fmt: skip
    with start() as engine:
        built = build(config, FeatureStore.open(config.features), engine)
        trainer, task = built.trainer, built.trainer.task
        task.model.double()
        task.key_encoder.module.double()
        task.queue.keys = task.queue.keys.double()
        seen: dict[str, torch.Tensor] = {}

        def remember() -> None:
            for name, parameter in task.model.named_parameters():
                seen[f"{trainer.done} {name}"] = parameter.grad.clone()
            updated()

        updated, task.updated = task.updated, remember
        trainer.train()
        if engine.is_main:
            seen["queue"] = task.queue.keys
            seen["videos"] = task.queue.videos
            seen |= {f"end {name}": parameter.detach() for name, parameter in task.model.named_parameters()}
            torch.save(seen, Path(output) / "seen.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
