"""What a recipe gives the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn


@dataclass
class StepLoss:
    """What a task computes for a part of this rank's slice of a global batch.

    Attributes:
        per_anchor: [n] loss values with gradient, n at least 0.
        sums: numbers to be added over ranks and steps for the log, the same names on every rank.
        blame: ids of this rank's videos to be named if the step is not finite; only called then.
    """

    per_anchor: torch.Tensor
    sums: dict[str, float]
    blame: Callable[[], list[str]]


class Task(Protocol):
    """What a recipe gives the loop."""

    model: nn.Module

    def batches(self, steps: range) -> Iterator[Any]:
        """The batches of these steps, in order; each a function of its step alone."""
        ...

    def losses(self, batch: Any, parts: int) -> Iterator[StepLoss]:
        """Loss of a batch in ``parts`` parts, whose sum is what one part would give; a part is taken back through the
        model before the next one is asked for, so that memory for activations is that of one part."""
        ...

    def updated(self) -> None:
        """Called after the update that followed the last `losses`."""
        ...

    def report(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Values for the log from ``sums`` added over ranks and steps."""
        ...

    def validate(self) -> dict[str, float] | None:
        """Measure on held-out videos, all ranks together; None where there are none."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """State besides model and optimizer."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        ...
