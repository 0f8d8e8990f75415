"""Train the same thing several times with random pauses on each rank, and write the digests of the weights.

reruns.py OUTPUT
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

import torch
from torch import nn

from reelkin.core.engine import Engine, start


def train(engine: Engine, compression: str) -> str:
    torch.manual_seed(0)
    model = nn.Sequential(*[layer for _ in range(6) for layer in (nn.Linear(33, 33), nn.GELU())])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    engine.wrap_optimizer(optimizer, model.named_parameters(), compression=compression)  # type: ignore[arg-type]
    data = torch.Generator().manual_seed(engine.rank)
    for _ in range(8):
        optimizer.zero_grad()
        (model(torch.randn(16, 33, generator=data)) - 1).square().mean().backward()
        time.sleep(random.random() * 0.02)
        optimizer.step()
    return engine.assert_same(model, "model")


def main(output: str) -> None:
    torch.set_num_threads(1)
    with start(deadline_seconds=60) as engine:
        digests = {compression: [train(engine, compression) for _ in range(4)] for compression in ("none", "fp16")}
        if engine.is_main:
            Path(output).write_text(json.dumps(digests))


if __name__ == "__main__":
    main(*sys.argv[1:])
