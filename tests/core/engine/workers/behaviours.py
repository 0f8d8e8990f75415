"""Run under any launcher: goes through the engine's behaviours and writes what this rank saw to ``OUTPUT/RANK.json``.

The test that starts it compares the ranks' files with references of its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reelkin.core.engine import Engine, start
from reelkin.core.errors import ReelkinError

DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool")


def listed(tensor: torch.Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "values": tensor.tolist()}


def caught(call: Callable[[], Any]) -> list[str]:
    try:
        call()
    except (ReelkinError, TypeError, ValueError) as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def check_collectives(engine: Engine, seen: dict[str, Any]) -> None:
    for dtype in DTYPES:
        kind = getattr(torch, dtype)
        own = (torch.arange(6).reshape(3, 2) * (engine.rank + 1) % 5).to(kind)
        before = own.clone()
        seen[f"gather {dtype}"] = listed(engine.all_gather(own, "values"))
        seen[f"sum {dtype}"] = listed(engine.all_reduce(own, "values", op="sum"))
        seen[f"max {dtype}"] = listed(engine.all_reduce(own, "values", op="max"))
        if kind.is_floating_point:
            seen[f"mean {dtype}"] = listed(engine.all_reduce(own, "values"))
        seen[f"unchanged {dtype}"] = torch.equal(own, before)
        seen[f"broadcast {dtype}"] = listed(engine.broadcast_(own, "values", root=engine.size - 1))

    transposed = torch.full((2, 3), float(engine.rank)).t()
    engine.broadcast_(transposed, "not contiguous")
    seen["broadcast transposed"] = transposed.tolist()
    seen["scalar mean"] = engine.all_reduce(torch.tensor(float(engine.rank)), "scalar").item()
    seen["empty sum"] = listed(engine.all_reduce(torch.zeros(0), "empty", op="sum"))
    half = torch.full((2,), 60000.0, dtype=torch.float16)
    seen["mean of large halves"] = listed(engine.all_reduce(half, "large"))
    seen["gather no columns"] = list(engine.all_gather(torch.zeros(2, 0), "no columns").shape)
    seen["gather of scalar"] = caught(lambda: engine.all_gather(torch.tensor(1.0), "scalar"))
    seen["mean of integers"] = caught(lambda: engine.all_reduce(torch.tensor([1]), "integers"))
    seen["reduce by product"] = caught(lambda: engine.all_reduce(torch.ones(1), "x", op="prod"))  # type: ignore
    seen["broadcast from nobody"] = caught(lambda: engine.broadcast_(torch.ones(1), "x", root=engine.size))


def check_ragged(engine: Engine, seen: dict[str, Any]) -> None:
    """Many rounds of one name with changing numbers of rows, each compared with what the others must have sent."""
    wrong = 0
    for step in range(60):
        pieces = []
        for rank in range(engine.size):
            generator = torch.Generator().manual_seed(1000 * step + rank)
            rows = int(torch.randint(0, 4, (1,), generator=generator))
            pieces.append(torch.randn(rows, 3, 2, generator=generator))
        gathered = engine.all_gather(pieces[engine.rank], "ragged")
        wrong += not torch.equal(gathered, torch.cat(pieces))
    seen["ragged wrong"] = wrong


def check_objects(engine: Engine, seen: dict[str, Any]) -> None:
    value = {"rank": engine.rank, "text": "ä" * engine.rank, "list": [1, 2.5, None, True], "nothing": {}}
    seen["objects"] = engine.all_gather_object(value, "objects")
    seen["object from root"] = engine.broadcast_object(value if engine.rank == 0 else None, "object")
    seen["float survives"] = engine.broadcast_object(0.1 + 0.2, "float") == 0.1 + 0.2
    seen["object refused"] = [
        caught(lambda bad=bad: engine.all_gather_object(bad, "bad"))  # type: ignore[misc]
        for bad in ({1: 2}, {"a": [{1, 2}]}, torch.ones(1), object())
    ]
    seen["agree one"] = engine.agree(engine.rank == engine.size - 1, "one of us")
    seen["agree none"] = engine.agree(False, "none of us")
    engine.barrier("here")
    with engine.extend_deadline(60), engine.extend_deadline(60):
        pass


def model_and_data(seed: int) -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    inputs, targets = torch.randn(5, 8, 6), torch.randn(5, 8, 3)  # 5 steps, batches of 8
    return model, inputs, targets


def check_training(engine: Engine, seen: dict[str, Any]) -> None:
    for compression in ("none", "fp16"):
        for clip in (False, True):
            model, inputs, targets = model_and_data(0)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
            wrapped = engine.wrap_optimizer(optimizer, model.named_parameters(), compression=compression)  # type: ignore
            scheduler = torch.optim.lr_scheduler.StepLR(wrapped, step_size=2, gamma=0.5)
            share = slice(engine.rank * 8 // engine.size, (engine.rank + 1) * 8 // engine.size)
            for batch, target in zip(inputs, targets, strict=True):
                wrapped.zero_grad()
                nn.functional.mse_loss(model(batch[share]), target[share]).backward()
                if clip:
                    engine.synchronize(wrapped)
                    nn.utils.clip_grad_norm_(model.parameters(), 0.05)
                wrapped.step()
                scheduler.step()
            seen[f"trained {compression} clip={clip}"] = [p.detach().flatten().tolist() for p in model.parameters()]
            engine.assert_same(model, "model after training")
            wrapped.load_state_dict(wrapped.state_dict())
            seen["same object"] = wrapped is optimizer

    model, _, _ = model_and_data(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine.wrap_optimizer(optimizer, model.named_parameters())
    engine.wrap_optimizer(optimizer, model.named_parameters())  # wrapping again replaces, it does not reduce twice
    first, second, third, _ = model.parameters()
    before = [p.detach().clone() for p in (first, second, third)]
    first.grad = torch.full_like(first, 65000.0)
    if engine.rank == 0:
        second.grad = torch.ones_like(second)
    optimizer.step()
    seen["partly missing gradient"] = (before[1] - second).detach().mean().item()
    seen["gradient missing everywhere stays"] = third.grad is None and torch.equal(third, before[2])

    engine.wrap_optimizer(optimizer, model.named_parameters(), compression="fp16")
    optimizer.zero_grad()
    first.grad = torch.full_like(first, 65000.0)
    engine.synchronize(optimizer)
    seen["large half gradients"] = first.grad.mean().item()

    def closure_step() -> None:
        optimizer.step(lambda: 0.0)

    seen["closure"] = caught(closure_step)
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    seen["added parameters"] = caught(lambda: engine.synchronize(optimizer))
    seen["wrap names missing"] = caught(lambda: engine.wrap_optimizer(optimizer, list(model.named_parameters())[1:]))
    seen["wrap unknown"] = caught(
        lambda: engine.wrap_optimizer(optimizer, model.named_parameters(), compression="int8")  # type: ignore
    )
    other = nn.Linear(2, 2 if engine.rank == 0 else 3)
    seen["different models"] = caught(
        lambda: engine.wrap_optimizer(torch.optim.SGD(other.parameters(), lr=1.0), other.named_parameters())
    )
    same = nn.Linear(2, 2)
    unwrapped = torch.optim.SGD(same.parameters(), lr=1.0)
    seen["synchronize unwrapped"] = caught(lambda: engine.synchronize(unwrapped))
    seen["adasum"] = caught(lambda: engine.wrap_optimizer(unwrapped, same.named_parameters(), reduction="adasum"))


def check_broadcast_state(engine: Engine, seen: dict[str, Any]) -> None:
    makers: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
        "adamw": lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    }
    for name, make in makers.items():
        torch.manual_seed(engine.rank)
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        optimizer = make(model.parameters())
        if engine.is_main:  # as after loading a checkpoint: only rank 0 has a state
            for _ in range(3):
                model(torch.randn(8, 4)).square().sum().backward()
                optimizer.step()
            optimizer.param_groups[0]["lr"] = 0.025
        before = engine.digest(model), engine.digest(optimizer)
        engine.broadcast_state(model, optimizer)
        seen[f"state {name}"] = [before, (engine.digest(model), engine.digest(optimizer))]
        seen[f"lr {name}"] = optimizer.param_groups[0]["lr"]
        seen[f"steps {name}"] = len(optimizer.state_dict()["state"])


def check_disagreement(engine: Engine, seen: dict[str, Any]) -> None:
    """Each of these is an error on every rank, after which the ranks are still in step."""
    mine = engine.rank == 0
    seen["disagree on same"] = caught(lambda: engine.assert_same(torch.tensor([engine.rank]), "the marker"))
    seen["disagree on name"] = caught(lambda: engine.barrier("here" if mine else "there"))
    seen["disagree on kind"] = caught(lambda: engine.barrier("x") if mine else engine.agree(False, "x") and None)
    dtype = torch.float32 if mine else torch.int32
    seen["disagree on dtype"] = caught(lambda: engine.all_gather(torch.zeros(1, 2, dtype=dtype), "x"))
    seen["disagree on shape"] = caught(lambda: engine.all_reduce(torch.zeros(2 if mine else 3), "x"))
    root = 0 if mine else engine.size - 1
    seen["disagree on root"] = caught(lambda: engine.broadcast_(torch.zeros(2), "x", root=root))
    seen["in step after all"] = engine.all_gather_object(engine.rank, "in step")


def main(output: str, backend: str) -> None:
    torch.set_num_threads(1)
    seen: dict[str, Any] = {}
    with start(backend, deadline_seconds=60) as engine:
        seen["identity"] = [engine.backend, engine.rank, engine.size, engine.local_rank, str(engine.device)]
        seen["is_main"] = engine.is_main
        seen["started twice"] = caught(lambda: start(backend).__enter__())
        for check in (
            check_collectives,
            check_ragged,
            check_objects,
            check_training,
            check_broadcast_state,
            check_disagreement,
        ):
            check(engine, seen)
    seen["closed"] = True
    Path(output, f"{engine.rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
