"""The same behaviours under every carrier: one launch each, checked against references computed here."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

RANKS = {"single": 1, "torch": 2, "horovod": 2}
WORKER = runpy.run_path(str(Path(__file__).parent / "workers" / "behaviours.py"), run_name="worker")
Seen = list[dict[str, Any]]


@pytest.fixture(scope="module", params=list(RANKS))
def seen(request: pytest.FixtureRequest, run_ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each rank saw."""
    output = tmp_path_factory.mktemp(request.param)
    finished = run_ranks(request.param, RANKS[request.param], "behaviours.py", str(output), "auto")
    assert finished.returncode == 0, finished.output[-6000:]
    files = sorted(output.glob("*.json"))
    assert len(files) == RANKS[request.param]
    found = [json.loads(path.read_text()) for path in files]
    assert found[0]["identity"][0] == request.param
    return found


def own_values(rank: int, dtype: str) -> torch.Tensor:
    return (torch.arange(6).reshape(3, 2) * (rank + 1) % 5).to(getattr(torch, dtype))


def test_ranks_know_who_they_are(seen: Seen) -> None:
    for rank, mine in enumerate(seen):
        assert mine["identity"][1:] == [rank, len(seen), rank, "cpu"]
        assert mine["is_main"] == (rank == 0)
        assert mine["started twice"][0] == "ReelkinError"
        assert mine["closed"]


@pytest.mark.parametrize("dtype", WORKER["DTYPES"])
def test_collectives_keep_dtype_and_values(seen: Seen, dtype: str) -> None:
    values = [own_values(rank, dtype) for rank in range(len(seen))]
    stacked = torch.stack(values)
    floating = stacked.is_floating_point()
    for mine in seen:
        assert mine[f"gather {dtype}"] == {"dtype": dtype, "values": torch.cat(values).tolist()}
        assert mine[f"sum {dtype}"] == {"dtype": dtype if floating else "int64", "values": stacked.sum(0).tolist()}
        assert mine[f"max {dtype}"] == {"dtype": dtype, "values": stacked.amax(0).tolist()}
        if floating:
            assert mine[f"mean {dtype}"] == {"dtype": dtype, "values": stacked.double().mean(0).tolist()}
        assert mine[f"unchanged {dtype}"]
        assert mine[f"broadcast {dtype}"] == {"dtype": dtype, "values": values[-1].tolist()}


def test_unusual_shapes_go_through(seen: Seen) -> None:
    for mine in seen:
        assert mine["broadcast transposed"] == [[0.0, 0.0]] * 3
        assert mine["scalar mean"] == (len(seen) - 1) / 2
        assert mine["empty sum"] == {"dtype": "float32", "values": []}
        assert mine["gather no columns"] == [2 * len(seen), 0]


def test_the_mean_of_large_halves_does_not_overflow(seen: Seen) -> None:
    for mine in seen:
        assert mine["mean of large halves"] == {"dtype": "float16", "values": [60000.0, 60000.0]}


def test_misuse_is_refused_before_anything_is_sent(seen: Seen) -> None:
    for mine in seen:
        for case in ("gather of scalar", "mean of integers", "reduce by product", "broadcast from nobody"):
            assert mine[case][0] == "ValueError", case


def test_ragged_gathers_keep_rank_order_over_many_rounds(seen: Seen) -> None:
    assert [mine["ragged wrong"] for mine in seen] == [0] * len(seen)


def test_plain_values_survive_and_others_are_refused(seen: Seen) -> None:
    def sent(rank: int) -> dict[str, Any]:
        return {"rank": rank, "text": "ä" * rank, "list": [1, 2.5, None, True], "nothing": {}}

    for mine in seen:
        assert mine["objects"] == [sent(rank) for rank in range(len(seen))]
        assert mine["object from root"] == sent(0)
        assert mine["float survives"]
        assert [kind for kind, _ in mine["object refused"]] == ["TypeError"] * 4
        assert "value['a'][0] is a set" in mine["object refused"][1][1]


def test_one_yes_is_a_yes_for_all(seen: Seen) -> None:
    assert all(mine["agree one"] and not mine["agree none"] for mine in seen)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(("compression", "tolerance"), [("none", 1e-6), ("fp16", 2e-3)])
def test_training_equals_one_process_with_the_whole_batch(
    seen: Seen, compression: str, tolerance: float, clip: bool
) -> None:
    model, inputs, targets = WORKER["model_and_data"](0)
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    for batch, target in zip(inputs, targets, strict=True):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch), target).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
        optimizer.step()
        scheduler.step()
    for mine in seen:
        trained = mine[f"trained {compression} clip={clip}"]
        for got, want, first in zip(trained, model.parameters(), start, strict=True):
            torch.testing.assert_close(torch.tensor(got), want.detach().flatten(), atol=tolerance, rtol=0)
            assert not torch.equal(want, first)
        assert trained == seen[0][f"trained {compression} clip={clip}"]
        assert mine["same object"]


def test_missing_gradients_count_as_zero_only_where_another_rank_has_one(seen: Seen) -> None:
    for mine in seen:
        assert mine["partly missing gradient"] == pytest.approx(1 / len(seen), abs=1e-6)
        assert mine["gradient missing everywhere stays"]


def test_compressed_gradients_do_not_overflow(seen: Seen) -> None:
    for mine in seen:
        assert math.isfinite(mine["large half gradients"])
        assert mine["large half gradients"] == pytest.approx(65000.0, rel=1e-3)


def test_a_wrapped_optimizer_refuses_what_would_make_ranks_drift(seen: Seen) -> None:
    for mine in seen:
        assert mine["wrap names missing"][0] == "UsageError"
        assert mine["wrap unknown"][0] == "UsageError"
        if len(seen) > 1:
            assert mine["closure"][0] == "UsageError"
            assert "wrap it again" in mine["added parameters"][1]
            assert "rank 0 has weight float32[2, 2]" in mine["different models"][1]
            assert mine["synchronize unwrapped"][0] == "UsageError"


def test_adasum_without_mpi_says_how_to_get_it(seen: Seen) -> None:
    for mine in seen:
        if mine["identity"][0] == "single":
            assert mine["adasum"][0] == "nothing"
        else:
            assert mine["adasum"][0] == "UsageError"
            assert "HOROVOD_WITH_MPI=1" in mine["adasum"][1] and "horovodrun --mpi" in mine["adasum"][1]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_state_that_only_rank_0_loaded_reaches_all_ranks_unchanged(seen: Seen, optimizer: str) -> None:
    loaded = seen[0][f"state {optimizer}"][0]
    if len(seen) > 1:
        assert seen[1][f"state {optimizer}"][0] != loaded  # else the test shows nothing
    for mine in seen:
        assert mine[f"state {optimizer}"][1] == loaded
        assert mine[f"lr {optimizer}"] == 0.025
        assert mine[f"steps {optimizer}"] == 4


def test_ranks_that_disagree_all_learn_who_is_where(seen: Seen) -> None:
    for mine in seen:
        assert mine["in step after all"] == list(range(len(seen)))
        if len(seen) == 1:
            continue
        cases = [mine[key] for key in mine if key.startswith("disagree")]
        assert len(cases) == 6
        assert all(kind == "ReelkinError" for kind, _ in cases)
        assert "the marker differs between ranks (ranks [0]:" in mine["disagree on same"][1]
        assert "rank 0 is at barrier 'here#" in mine["disagree on name"][1]
        assert "rank 1 is at barrier 'there#" in mine["disagree on name"][1]
        assert "float32[*, 2]" in mine["disagree on dtype"][1] and "int32[*, 2]" in mine["disagree on dtype"][1]
