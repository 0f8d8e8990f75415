"""Batch norm over the rows of all ranks together, on CPU and GPU.

``torch.nn.SyncBatchNorm`` runs on GPUs and torch.distributed only, and Horovod's on GPUs only. Here the ranks' row
counts, means and squared deviations are gathered by the engine and combined in float64 (Chan, Golub and LeVeque,
"Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979), so that W ranks with their share of
the rows compute what one rank computes with all of them; ranks may have different numbers of rows, also none.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ..errors import ReelkinError, UsageError
from .base import Engine


class SynchronisedBatchNorm(nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` for rows [M, C], with the same parameters, buffers, options and results on one rank.

    While training, every rank has to call it (M may be 0 on some) and to go backward through it: both are collectives.
    Until `synchronise_batch_norm` gives it an engine, its rows are all there are.
    """

    _engine: weakref.ref[Engine] | None = None

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise rows.

        Args:
            input: [M, C], float64, float32, or less (then computed in float32).

        Returns:
            [M, C] of the same dtype.

        Raises:
            ValueError: not [M, C].
            ReelkinError: the engine has ended.
            UsageError: fewer than 2 rows on all ranks together while training: they have no variance.
        """
        if input.ndim != 2 or input.shape[1] != self.num_features:
            raise ValueError(f"batch norm of {self.num_features} channels got {tuple(input.shape)} instead of [M, C]")
        with torch.autocast(input.device.type, enabled=False):
            x_MC = input if input.dtype == torch.float64 else input.float()
            if self.training or self.running_mean is None:
                return self._by_batch(x_MC).to(input.dtype)
            # Written out: torch's own takes no empty batch on every device.
            mean_C, var_C = self.running_mean, self.running_var
            assert var_C is not None
            y_MC = (x_MC - mean_C) * torch.rsqrt(var_C + self.eps)
            return (y_MC * self.weight + self.bias if self.affine else y_MC).to(input.dtype)

    def _by_batch(self, x_MC: torch.Tensor) -> torch.Tensor:
        engine = None if self._engine is None else self._engine()
        if engine is None and self._engine is not None:
            raise ReelkinError("the engine of this batch norm has ended; put the model into eval mode")
        count, mean_C, squares_C = _global_moments(x_MC.detach(), engine)
        if count < 2:
            raise UsageError(
                f"batch norm saw {count:.0f} rows on all ranks together; it needs 2 or more: raise --batch-size"
            )
        if self.training:
            self._track(count, mean_C, squares_C)
        inverse_C = torch.rsqrt(squares_C / count + self.eps)
        normed_MC = _Normalise.apply(x_MC, mean_C, inverse_C, count, engine)
        return normed_MC * self.weight + self.bias if self.affine else normed_MC

    @torch.no_grad()
    def _track(self, count: float, mean_C: torch.Tensor, squares_C: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        factor = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_C.to(self.running_mean.dtype), factor)
        self.running_var.lerp_((squares_C / (count - 1)).to(self.running_var.dtype), factor)


class _Normalise(torch.autograd.Function):
    """(x - mean) / deviation, where mean and deviation depend on the rows of all ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        x_MC: torch.Tensor,
        mean_C: torch.Tensor,
        inverse_C: torch.Tensor,
        count: float,
        engine: Engine | None,
    ) -> torch.Tensor:
        normed_MC = ((x_MC.double() - mean_C) * inverse_C).to(x_MC.dtype)
        ctx.save_for_backward(normed_MC, inverse_C)
        ctx.count, ctx.engine = count, engine
        return normed_MC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_MC: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed_MC, inverse_C = ctx.saved_tensors
        # Each rank's rows moved the mean and the deviation of all: what they owe the others comes by these sums.
        sums_2C = torch.stack(
            [gradient_MC.sum(0, dtype=torch.float64), (gradient_MC * normed_MC).sum(0, dtype=torch.float64)]
        )
        if ctx.engine is not None:
            sums_2C = ctx.engine.all_reduce(sums_2C, "batch norm gradients", op="sum")
        mean_2C = sums_2C / ctx.count
        found_MC = (gradient_MC.double() - mean_2C[0] - normed_MC * mean_2C[1]) * inverse_C
        return found_MC.to(gradient_MC.dtype), None, None, None, None


def _global_moments(x_MC: torch.Tensor, engine: Engine | None) -> tuple[float, torch.Tensor, torch.Tensor]:
    """Number of rows, mean float64 [C] and sum of squared deviations float64 [C] over all ranks."""
    wide_MC = x_MC.double()
    own_C = wide_MC.sum(0) / max(1, len(wide_MC))
    squares_C = (wide_MC - own_C).square().sum(0)
    count_1 = own_C.new_full((1,), len(wide_MC))
    packed_RW = torch.cat([count_1, own_C, squares_C])[None]
    if engine is not None:
        packed_RW = engine.all_gather(packed_RW, "batch norm moments")
    count_R1, (mean_RC, squares_RC) = packed_RW[:, :1], packed_RW[:, 1:].chunk(2, dim=1)
    count = float(count_R1.sum())
    mean_C = (count_R1 * mean_RC).sum(0) / max(1.0, count)
    return count, mean_C, (squares_RC + count_R1 * (mean_RC - mean_C).square()).sum(0)


def batch_norms(model: nn.Module) -> list[SynchronisedBatchNorm]:
    """The batch norms within a model."""
    return [module for module in model.modules() if isinstance(module, SynchronisedBatchNorm)]


def synchronise_batch_norm(model: nn.Module, engine: Engine) -> None:
    """From now on the batch norms within ``model``, and within copies of it, count the rows of all of ``engine``'s
    ranks."""
    for norm in batch_norms(model):
        # Weak, because a module does not own the engine, and because a copy of a module must not copy it.
        norm._engine = weakref.ref(engine)


@contextmanager
def running_statistics(model: nn.Module) -> Iterator[None]:
    """Within the body, batch norms of ``model`` use and keep their running statistics, as in eval mode; then as before.

    What is computed so for a video does not depend on its company, and is no collective.
    """
    before = [(norm, norm.training) for norm in batch_norms(model)]
    try:
        for norm, _ in before:
            norm.eval()
        yield
    finally:
        for norm, training in before:
            norm.train(training)
