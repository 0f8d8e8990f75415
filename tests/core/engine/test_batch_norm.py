"""Batch norm over ranks against torch's own over all rows."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from reelkin.core.engine import start
from reelkin.core.engine.batch_norm import SynchronisedBatchNorm, running_statistics, synchronise_batch_norm
from reelkin.core.errors import ReelkinError, UsageError

from .conftest import Run
from .workers.batch_norm import module, rows_of_step


def reference(rows: int, steps: int = 2) -> dict[str, torch.Tensor]:
    norm, seen = module(nn.BatchNorm1d), {}
    for step in range(steps):
        x, factor = rows_of_step(step, rows)
        x.requires_grad_()
        found = norm(x)
        (found * factor).sum().backward()
        seen |= {f"{step} out": found.detach(), f"{step} gradient": x.grad}
    return {**seen, **{name: each.grad for name, each in norm.named_parameters()}, **dict(norm.named_buffers())}


@pytest.mark.slow
@pytest.mark.usefixtures("bin_on_path")
@pytest.mark.parametrize(
    ("backend", "rows"), [("torch", [7, 4]), ("horovod", [3, 8]), ("torch", [5, 0, 1, 9]), ("horovod", [1, 6, 0, 2])]
)
def test_ranks_normalise_like_one_rank_with_all_rows(
    run_ranks: Run, tmp_path: Path, backend: str, rows: list[int]
) -> None:
    finished = run_ranks(backend, len(rows), "batch_norm.py", str(tmp_path), ",".join(map(str, rows)))
    assert finished.returncode == 0, finished.output[-4000:]
    seen = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(len(rows))]
    for name, expected in reference(sum(rows)).items():
        if name.endswith(("out", "gradient")):
            found = torch.cat([each[name] for each in seen])
        else:
            found = seen[0][name]
            assert all(torch.equal(each[name], found) for each in seen), name
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_alone_it_equals_torchs_own(options: dict[str, object]) -> None:
    torch.manual_seed(0)
    own, theirs = SynchronisedBatchNorm(5, **options).double(), nn.BatchNorm1d(5, **options).double()  # type: ignore
    own.load_state_dict(theirs.state_dict())
    for step in range(4):
        training = step < 3
        x = (torch.randn(6, 5, dtype=torch.float64) * 4 + 7).requires_grad_()
        y = x.detach().clone().requires_grad_()
        first, second = own.train(training)(x), theirs.train(training)(y)
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)
        first.square().sum().mul(0.5).add(first[0].sum()).backward()
        second.square().sum().mul(0.5).add(second[0].sum()).backward()
        torch.testing.assert_close(x.grad, y.grad, rtol=1e-11, atol=1e-12)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_gradients_are_those_of_finite_differences() -> None:
    norm = module(SynchronisedBatchNorm)
    x, _ = rows_of_step(0, 4)
    assert torch.autograd.gradcheck(lambda rows: norm(rows).tanh(), x.requires_grad_())


def test_large_offsets_do_not_swallow_the_variance() -> None:
    x = torch.tensor([[10_000.0], [10_001.0], [10_002.0], [10_003.0]])
    norm = SynchronisedBatchNorm(1)
    expected = nn.BatchNorm1d(1).double()(x.double()).float()
    torch.testing.assert_close(norm(x), expected, rtol=1e-5, atol=1e-6)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 5 / 3)


def test_half_precision_under_autocast_is_computed_in_float32() -> None:
    norm = SynchronisedBatchNorm(3)
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, nn.BatchNorm1d(3)(x.float()).bfloat16())


@pytest.mark.parametrize("rows", [0, 1])
def test_rows_without_a_variance_are_refused_in_training_and_taken_in_eval(rows: int) -> None:
    norm = SynchronisedBatchNorm(3)
    with pytest.raises(UsageError, match=f"saw {rows} rows on all ranks together; it needs 2 or more: raise --batch"):
        norm(torch.ones(rows, 3))
    assert norm.eval()(torch.ones(rows, 3)).shape == (rows, 3)


def test_rows_of_another_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"of 3 channels got \(2, 4\)"):
        SynchronisedBatchNorm(3)(torch.ones(2, 4))


def test_a_copy_shares_the_engine_and_both_say_when_it_has_ended() -> None:
    model = nn.Sequential(nn.Linear(3, 3), SynchronisedBatchNorm(3))
    with start(backend="single", device="cpu") as engine:
        synchronise_batch_norm(model, engine)
        follower = copy.deepcopy(model)
        assert follower[1]._engine() is engine
        follower(torch.eye(3))
    del engine
    with pytest.raises(ReelkinError, match="engine of this batch norm has ended"):
        follower(torch.eye(3))
    model.eval()(torch.eye(3))


def test_running_statistics_are_used_within_and_the_mode_comes_back() -> None:
    model = nn.Sequential(SynchronisedBatchNorm(3), nn.Dropout(0.5)).train()
    x, before = torch.randn(4, 3), copy.deepcopy(model.state_dict())
    with pytest.raises(KeyError), running_statistics(model):
        torch.testing.assert_close(model[0](x), x * (1 + 1e-5) ** -0.5)
        assert model[1].training
        raise KeyError
    assert model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
