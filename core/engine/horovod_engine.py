"""Horovod as carrier, started by horovodrun (or mpirun).

Facts this file builds on, for Horovod 0.28.1: bfloat16, uint8 and bool cannot be reduced, but uint8 can be gathered and
broadcast, so other dtypes travel as their bytes; ``broadcast_object`` and ``broadcast_optimizer_state`` have traps of
their own and are not used; names identify a collective and repeat from call to call, which its response cache needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import horovod.torch as hvd
import torch

from ..errors import UsageError
from .base import Engine


class HorovodEngine(Engine):
    """Ranks of a Horovod job; ``device`` is set by whoever makes it, once the local rank is known."""

    backend = "horovod"

    def __init__(self) -> None:
        hvd.init()
        super().__init__(hvd.rank(), hvd.size(), hvd.local_rank(), torch.device("cpu"))
        self.local_size: int = hvd.local_size()
        self.adasum_averages: int = self.local_size if hvd.nccl_built() else 1

    def _exchange(self, values: torch.Tensor, name: str) -> torch.Tensor:
        return hvd.allgather(values[None], name=f"reelkin.{name}")

    def _gather_rows(self, rows_NB: torch.Tensor, rows: Sequence[int], name: str) -> torch.Tensor:
        return hvd.allgather(rows_NB, name=name)

    def _reduce_(self, tensor: torch.Tensor, op: Literal["sum", "max"], name: str) -> None:
        hvd.allreduce_(tensor, name=name, op=hvd.Sum if op == "sum" else hvd.Max)

    def _broadcast_bytes(self, data: torch.Tensor, root: int, name: str) -> None:
        hvd.broadcast_(data, root, name=name)

    def _shut_down(self) -> None:
        hvd.shutdown()

    def _check_adasum(self) -> None:
        if not (hvd.mpi_built() and hvd.mpi_enabled()):
            super()._check_adasum()
        if self.size & (self.size - 1):
            raise UsageError(f"reduction: 'adasum' needs a power of two ranks, got {self.size}; or choose 'average'")

    def _adasum_(self, tensors: Sequence[torch.Tensor], names: Sequence[str]) -> None:
        # One after the other: fused tensors are combined in an order that depends on timing.
        for tensor, name in zip(tensors, names, strict=True):
            hvd.allreduce_(tensor, name=f"adasum {name} {tensor.dtype}", op=hvd.Adasum)
