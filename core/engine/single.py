"""One process, no carrier: the same calls and the same checks, with nothing to wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from .base import Engine


class SingleEngine(Engine):
    """Rank 0 of 1."""

    backend = "single"

    def __init__(self, device: torch.device) -> None:
        super().__init__(rank=0, size=1, local_rank=0, device=device)

    def _exchange(self, values: torch.Tensor, name: str) -> torch.Tensor:
        return values[None]

    def _gather_rows(self, rows_NB: torch.Tensor, rows: Sequence[int], name: str) -> torch.Tensor:
        return rows_NB.clone()

    def _reduce_(self, tensor: torch.Tensor, op: Literal["sum", "max"], name: str) -> None:
        pass

    def _broadcast_bytes(self, data: torch.Tensor, root: int, name: str) -> None:
        pass

    def _shut_down(self) -> None:
        pass

    def _check_adasum(self) -> None:
        pass  # of one gradient Adasum is that gradient
