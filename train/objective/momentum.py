"""The encoder of keys: a slowly following copy of the trained model, or, with momentum 0, the model itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ...core.engine.batch_norm import running_statistics
from ...core.errors import UsageError


class KeyEncoder:
    """Computes keys without gradient.

    With momentum m > 0 its weights are a copy that follows: ``key = m * key + (1 - m) * model`` after every update
    (He et al., "Momentum Contrast", CVPR 2020). With m = 0 (TCA's published setting) the copy would equal the model at
    every moment; then there is none, and the model itself is used behind a stopped gradient.

    Args:
        model: the trained module.
        momentum: 0 to below 1.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise UsageError(f"--momentum is {momentum}; it must be at least 0 (no copy) and below 1 (never moves)")
        self.momentum = momentum
        self._model = model
        self._copy: nn.Module | None = None
        if momentum > 0:
            self._copy = copy.deepcopy(model).requires_grad_(False)

    @property
    def module(self) -> nn.Module:
        """What computes keys at present."""
        return self._model if self._copy is None else self._copy

    @torch.no_grad()
    def __call__(self, *arguments: torch.Tensor) -> torch.Tensor:
        """Keys, without gradient. As published, dropout acts on keys too while training."""
        self.module.train(self._model.training)
        with running_statistics(self.module):
            return self.module(*arguments)

    @torch.no_grad()
    def update(self) -> None:
        """Follow the model's parameters and statistics by one step; counters are copied."""
        if self._copy is None:
            return
        for own, theirs in zip(self._copy.parameters(), self._model.parameters(), strict=True):
            own.lerp_(theirs, 1 - self.momentum)
        for own_buffer, their_buffer in zip(self._copy.buffers(), self._model.buffers(), strict=True):
            if own_buffer.is_floating_point():
                own_buffer.lerp_(their_buffer, 1 - self.momentum)
            else:
                own_buffer.copy_(their_buffer)

    def state_dict(self) -> dict[str, Any]:
        """The copy's weights; empty when there is no copy."""
        return {} if self._copy is None else self._copy.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; a copy that was not there follows from the model as it is now."""
        if self._copy is not None:
            self._copy.load_state_dict(state or self._model.state_dict())
