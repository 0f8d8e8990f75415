"""torch.distributed as carrier: gloo for CPU tensors, NCCL for CUDA tensors, started by torchrun."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist

from .base import Engine

# The deadline is ours and can be extended (see `deadline`); torch's own limits are put out of its way.
NEVER = timedelta(days=30)


class TorchEngine(Engine):
    """Ranks of a torch.distributed process group."""

    backend = "torch"

    def __init__(self, rank: int, size: int, local_rank: int, device: torch.device) -> None:
        super().__init__(rank, size, local_rank, device)
        if device.type == "cuda":
            torch.cuda.set_device(device)
            dist.init_process_group("cpu:gloo,cuda:nccl", timeout=NEVER)
        else:
            dist.init_process_group("gloo", timeout=NEVER)

    def _exchange(self, values: torch.Tensor, name: str) -> torch.Tensor:
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values)
        return torch.stack(gathered)

    def _gather_rows(self, rows_NB: torch.Tensor, rows: Sequence[int], name: str) -> torch.Tensor:
        # torch.distributed wants equal sizes: rows are padded to the longest, and cut again.
        longest = max(rows)
        padded = rows_NB
        if len(rows_NB) < longest:
            padded = rows_NB.new_zeros(longest, rows_NB.shape[1])
            padded[: len(rows_NB)] = rows_NB
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(gathered, padded)
        return torch.cat([piece[:count] for piece, count in zip(gathered, rows, strict=True)])

    def _reduce_(self, tensor: torch.Tensor, op: Literal["sum", "max"], name: str) -> None:
        dist.all_reduce(tensor, dist.ReduceOp.SUM if op == "sum" else dist.ReduceOp.MAX)

    def _broadcast_bytes(self, data: torch.Tensor, root: int, name: str) -> None:
        dist.broadcast(data, root)

    def _shut_down(self) -> None:
        dist.destroy_process_group()
