"""The best validation so far, and whether it is worth going on."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class Best:
    """Remembers the weights of the best validation.

    Attributes:
        value: the best figure, larger is better; -inf before the first.
        step: updates that had been done then.
        waiting: validations since that were not better.
        weights: the model's state then, on the CPU; empty before the first.
    """

    def __init__(self) -> None:
        self.value, self.step, self.waiting = -math.inf, 0, 0
        self.weights: dict[str, torch.Tensor] = {}

    def see(self, value: float, step: int, model: nn.Module) -> bool:
        """Take in a validation; True if it is better than all before. What is not a number never is."""
        if not value > self.value:
            self.waiting += 1
            return False
        self.value, self.step, self.waiting = value, step, 0
        self.weights = {name: each.detach().to("cpu", copy=True) for name, each in model.state_dict().items()}
        return True

    def exhausted(self, patience: int) -> bool:
        """Whether ``patience`` validations in a row were no better; 0 waits for ever."""
        return 0 < patience <= self.waiting

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"value": self.value, "step": self.step, "waiting": self.waiting, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.value, self.step, self.waiting = float(state["value"]), int(state["step"]), int(state["waiting"])
        self.weights = dict(state["weights"])
