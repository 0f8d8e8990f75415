"""Some updates of every aggregator in float64, each rank with its share of the videos; writes what rank 0 saw.

equal_models.py OUTPUT
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from reelkin.core.engine import Engine, start
from reelkin.core.engine.batch_norm import synchronise_batch_norm
from reelkin.train.data.sampling import rank_slice
from reelkin.train.models.aggregators import build_aggregator, out_dim

VIDEOS, FRAMES, DIM, STEPS = 11, 6, 16, 3
MODELS: dict[str, dict[str, Any]] = {
    "tca": {"num_layers": 2, "feedforward": 24, "projection": 10, "positions": "sinusoidal", "final_norm": True},
    "netvlad": {"num_clusters": 3, "output_dim": 10},
    "nextvlad": {"num_clusters": 3, "output_dim": 10, "groups_of_channels": 4},
    "lstm": {"output_dim": 10},
    "gru": {"output_dim": 10},
}


def updates(engine: Engine, name: str, fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Gradients of each step, and the weights and statistics at the end."""
    torch.manual_seed(1)
    model = build_aggregator(name, {"dim": DIM, "dropout": 0.3, **fields}).double().train()
    synchronise_batch_norm(model, engine)
    optimizer = engine.wrap_optimizer(torch.optim.SGD(model.parameters(), lr=0.1), model.named_parameters())
    own = rank_slice(VIDEOS, engine.rank, engine.size)
    seen: dict[str, torch.Tensor] = {}
    for step in range(STEPS):
        random = torch.Generator().manual_seed(step)
        features = torch.randn(VIDEOS, FRAMES, DIM, dtype=torch.float64, generator=random)
        lengths = torch.randint(1, FRAMES + 1, (VIDEOS,), generator=random)
        factor = torch.randn(VIDEOS, out_dim(model), dtype=torch.float64, generator=random)
        keys = torch.arange(VIDEOS) + 100 * step
        optimizer.zero_grad()
        # Ranks average their gradients; scaled like this, that is the gradient of the sum over all videos.
        (engine.size * (model(features[own], lengths[own], keys[own]) * factor[own]).sum()).backward()
        engine.synchronize(optimizer)
        for key, parameter in model.named_parameters():
            assert parameter.grad is not None
            seen[f"{step} {key}"] = parameter.grad.clone()
        optimizer.step()
    engine.assert_same(model, name)
    return seen | {f"end {key}": value.clone() for key, value in model.state_dict().items()}


def main(output: str) -> None:
    """Go through the models."""
    torch.set_num_threads(1)
    with start(deadline_seconds=60) as engine:
        seen = {name: updates(engine, name, fields) for name, fields in MODELS.items()}
        if engine.is_main:
            torch.save(seen, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
