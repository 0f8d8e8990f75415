"""Combine known gradients by Adasum and write what each rank holds afterwards.

adasum.py OUTPUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn

from reelkin.core.engine import start


def gradients_of(rank: int) -> list[torch.Tensor]:
    """Three gradients of different sizes: random, along one axis per rank, and the same on all ranks."""
    axis = torch.zeros(4)
    axis[rank] = 3.0
    return [torch.randn(5, 3, generator=torch.Generator().manual_seed(rank)), axis, torch.full((2,), 7.0)]


def main(output: str) -> None:
    torch.set_num_threads(1)
    with start(deadline_seconds=60) as engine:
        found = {}
        for compression in ("none", "fp16"):
            parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients_of(0)]
            optimizer = torch.optim.SGD(parameters, lr=1.0)
            named = [(str(position), parameter) for position, parameter in enumerate(parameters)]
            engine.wrap_optimizer(optimizer, named, compression=compression, reduction="adasum")  # type: ignore
            for parameter, gradient in zip(parameters, gradients_of(engine.rank), strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            found[compression] = [(-parameter).detach().flatten().tolist() for parameter in parameters]
    Path(output, f"{engine.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
