"""Batch norm over this rank's part of some rows, forward and backward, twice; writes what this rank saw.

batch_norm.py OUTPUT ROWS_OF_RANK_0,ROWS_OF_RANK_1,...
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from reelkin.core.engine import start
from reelkin.core.engine.batch_norm import SynchronisedBatchNorm, synchronise_batch_norm

CHANNELS = 5


def rows_of_step(step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """All ranks' rows float64 [rows, C], and what their output is multiplied with to make a loss."""
    generator = torch.Generator().manual_seed(step)
    x = 3 + 2 * torch.randn(rows, CHANNELS, dtype=torch.float64, generator=generator)
    return x, torch.randn(rows, CHANNELS, dtype=torch.float64, generator=generator)


def module(kind: type[torch.nn.BatchNorm1d]) -> torch.nn.BatchNorm1d:
    """A batch norm whose weights are not ones and zeros."""
    norm = kind(CHANNELS).double()
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1, CHANNELS + 1))
        norm.bias.copy_(torch.arange(CHANNELS) - 2.0)
    return norm


def main(output: str, rows: str) -> None:
    torch.set_num_threads(1)
    counts = [int(each) for each in rows.split(",")]
    with start(deadline_seconds=60) as engine:
        norm = module(SynchronisedBatchNorm)
        synchronise_batch_norm(norm, engine)
        seen: dict[str, torch.Tensor] = {}
        for step in range(2):
            x, factor = (each.split(counts)[engine.rank].clone() for each in rows_of_step(step, sum(counts)))
            x.requires_grad_()
            found = norm(x)
            (found * factor).sum().backward()
            assert x.grad is not None
            seen |= {f"{step} out": found.detach(), f"{step} gradient": x.grad}
        for name, parameter in norm.named_parameters():
            assert parameter.grad is not None
            seen[name] = engine.all_reduce(parameter.grad, name, op="sum")
        seen |= dict(norm.named_buffers())
        torch.save(seen, Path(output, f"{engine.rank}.pt"))


if __name__ == "__main__":
    main(*sys.argv[1:])
