"""Losses, gradients and queues of some steps of many small runs, in float64, as a tensor file; under any launcher.

Arguments: store, labels (edits.csv), output folder, momenta of the key encoder with commas between. The loss
circle-legacy depends on the number of ranks; started alone, this computes it also as 2 and as 4 ranks would, by
numbering the anchors anew in each of their shares.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import torch

from reelkin.core.engine import Engine, start
from reelkin.train.data.sampling import rank_slice
from reelkin.train.data.sources import open_features
from reelkin.train.objective.contrast import ContrastTask
from reelkin.train.objective.losses import LOSSES, Similarities
from reelkin.train.recipes.tca import TcaRecipe, build
from reelkin.train.running.run_folder import RunFolder

BATCH, STEPS = 11, 3
MINING: dict[str, dict[str, Any]] = {
    "none": {},
    "topk": {"mining_from": "background", "mined_share_start": 0.3, "mined_share_end": 1.0},
    "semi-hard": {"mining_from": "components", "mined_share_start": 0.6},
    "distance-weighted": {},
}


def cases(momenta: list[float]) -> dict[str, dict[str, Any]]:
    """Every loss with every mining and both kinds of key encoder, and some more."""
    found: dict[str, dict[str, Any]] = {}
    for loss, mining, momentum in itertools.product(LOSSES, MINING, momenta):
        fields = {"loss": loss, "mining": mining, "momentum": momentum, **MINING[mining]}
        found[f"{loss}, {mining}, {momentum}"] = fields
    found["parts"] = {"accumulation": 3, "loss": "supcon"}
    found["drawn negatives only"] = {"queue_positives": False, "batch_negatives": False, "queue_size": 16}
    found["a queue smaller than a step"] = {"queue_size": 5}
    found["batch norm"] = {"aggregator": "lstm", "output_dim": 16, "feedforward": 2048, "init": "identity"}
    return found


def as_ranks(task: ContrastTask, ranks: int) -> None:
    """Let the loss count anchors from 0 in each of ``ranks`` shares of the batch, as that many processes would."""
    starts = torch.tensor([rank_slice(BATCH, rank, ranks).start for rank in range(ranks)])
    loss = task._loss

    def counted_anew(seen: Similarities) -> torch.Tensor:
        assert seen.rows is not None
        rows = seen.rows - starts[torch.searchsorted(starts, seen.rows, right=True) - 1]
        return loss(Similarities(seen.positive, seen.negative, seen.valid, seen.further, seen.further_valid, rows))

    task._loss = counted_anew


def run(engine: Engine, config: TcaRecipe, as_many: int) -> dict[str, torch.Tensor]:
    """Gradients after each step, logged losses, and what is remembered at the end."""
    trainer = build(config, open_features(config.features), engine).trainer
    task = trainer.task
    assert isinstance(task, ContrastTask)
    task.model.double()
    task.key_encoder.module.double()
    task.queue.keys = task.queue.keys.double()
    if as_many > 1:
        as_ranks(task, as_many)
    seen: dict[str, torch.Tensor] = {}

    def remember() -> None:
        for name, parameter in task.model.named_parameters():
            assert parameter.grad is not None
            seen[f"gradient {trainer.done} {name}"] = parameter.grad.clone()
        updated()

    updated = task.updated
    task.updated = remember  # type: ignore[method-assign]
    trainer.train()
    seen |= {"queue": task.queue.keys.clone(), "videos": task.queue.videos.clone()}
    seen |= {f"end {name}": value.detach().clone() for name, value in task.model.state_dict().items()}
    if engine.is_main:
        rows = [row for row in RunFolder(config.output).metrics() if "loss" in row]
        for name in ("loss", "negative_similarity", "hardest_similarity", "positive_first", "negatives_used"):
            # What has no negatives to speak of, as a first step without a queue, logs no mean over them.
            seen[f"logged {name}"] = torch.tensor([row.get(name, -1.0) for row in rows], dtype=torch.float64)
    return seen


def main(store: str, copies: str, output: str, momenta: str) -> None:
    """Run all cases and write what was seen."""
    seen: dict[str, dict[str, torch.Tensor]] = {}
    with start() as engine:
        for number, (name, fields) in enumerate(cases([float(each) for each in momenta.split(",")]).items()):
            given: dict[str, Any] = {
                "batch_size": BATCH, "steps": STEPS, "lr": 1e-3, "queue_size": 30, "negatives_per_anchor": 1,
                "feedforward": 16, "dropout": 0.3, "mined_negatives": 9, "warmup_steps": 0, "threads": 1,
                "init": "published", "weight_decay": 0.0, "log_every": 1, "circle_gamma": 32.0,
            }  # fmt: skip
            legacy = fields.get("loss") == "circle-legacy"
            for ranks in (1, 2, 4) if legacy and engine.size == 1 else (engine.size,):
                config = TcaRecipe(
                    features=Path(store),
                    copies=Path(copies),
                    output=Path(output) / f"{number} {ranks}",
                    **(given | fields),
                )
                alone = legacy and engine.size == 1
                seen[f"{name}, as {ranks} ranks" if legacy else name] = run(engine, config, ranks if alone else 1)
        if engine.is_main:
            torch.save(seen, Path(output) / "seen.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
