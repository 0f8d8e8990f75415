"""Learning rates and weight decay against torch's own schedulers and optimizers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from reelkin.core.errors import UsageError
from reelkin.train.data.sampling import GlobalSampler
from reelkin.train.running.optimisation import build_optimizer, learning_rate
from reelkin.train.running.settings import LoopConfig


def config(**fields: object) -> LoopConfig:
    return LoopConfig(output=Path("x"), **({"warmup_steps": 0, "lr": 3e-4} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(("epochs", "per_epoch"), [(40, 21), (5, 1), (1, 7)])
def test_cosine_epochs_is_torchs_schedule_stepped_once_an_epoch(epochs: int, per_epoch: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=3e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    wanted = []
    for _ in range(epochs):
        wanted += [optimizer.param_groups[0]["lr"]] * per_epoch
        optimizer.step()
        scheduler.step()
    chosen = config(schedule="cosine-epochs", epochs=epochs)
    steps = epochs * per_epoch
    found = [learning_rate(chosen, step, steps, lambda step: step / per_epoch) for step in range(steps)]
    assert found == pytest.approx(wanted, rel=1e-6)
    assert min(found) > 0


def test_cosine_epochs_follows_the_samplers_epochs_where_batches_straddle_them() -> None:
    sampler = GlobalSampler(10, 4, seed=0)  # epochs of 2.5 batches
    chosen = config(schedule="cosine-epochs", epochs=4, lr=1.0)
    rates = [learning_rate(chosen, step, sampler.steps_of(4), sampler.epoch) for step in range(sampler.steps_of(4))]
    full, three, half, one = 1.0, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5
    assert rates == pytest.approx([full] * 3 + [three] * 2 + [half] * 3 + [one] * 2)


def test_a_schedule_by_epochs_without_epochs_is_refused() -> None:
    with pytest.raises(UsageError, match="--schedule cosine-epochs"):
        learning_rate(config(schedule="cosine-epochs"), 0, 10)


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("on", ["matrices", "all"])
def test_weight_decay_reaches_what_it_is_said_to_reach(optimizer: str, on: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    twin = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    twin.load_state_dict(model.state_dict())
    ours = build_optimizer(model, config(optimizer=optimizer, weight_decay=0.5, weight_decay_on=on))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    if on == "all":
        theirs = kind(twin.parameters(), lr=3e-4, weight_decay=0.5)
    else:
        vectors = [twin[0].bias, twin[1].weight, twin[1].bias]
        theirs = kind([{"params": [twin[0].weight], "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0}], 3e-4)
    x = torch.randn(5, 3)
    for each, of in ((model, ours), (twin, theirs)):
        for _ in range(3):
            of.zero_grad()
            each(x).square().sum().backward()
            of.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_model_without_parameters_cannot_be_trained() -> None:
    with pytest.raises(UsageError, match="nothing to train"):
        build_optimizer(nn.Flatten(), config())
