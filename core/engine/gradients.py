"""Combining the ranks' gradients before an optimizer's step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ..errors import ReelkinError, UsageError
from . import plain, state

if TYPE_CHECKING:
    from .base import Engine

Compression = Literal["none", "fp16"]
Reduction = Literal["average", "adasum"]


class GradientReducer:
    """A hook before ``optimizer.step()`` that combines gradients over ranks; see `Engine.wrap_optimizer`.

    The gradients of one dtype and device travel in one flat buffer, in the order of ``named``, followed by one element
    per parameter that says whether this rank had a gradient at all.
    """

    def __init__(
        self,
        engine: Engine,
        optimizer: torch.optim.Optimizer,
        named: list[tuple[str, nn.Parameter]],
        compression: Compression,
        reduction: Reduction,
    ) -> None:
        if compression not in ("none", "fp16"):
            raise UsageError(f"compression: 'none' or 'fp16', got {compression!r}")
        if reduction not in ("average", "adasum"):
            raise UsageError(f"reduction: 'average' or 'adasum', got {reduction!r}")
        own = _parameters_of(optimizer)
        self.named = [(name, parameter) for name, parameter in named if id(parameter) in own]
        if len({id(parameter) for _, parameter in self.named}) != len(own):
            raise UsageError(
                f"named_parameters: holds {len(self.named)} of the optimizer's {len(own)} parameters; pass the "
                "model's named_parameters()"
            )
        self.engine = engine
        self.compression = compression
        self.reduction = reduction
        self._synchronized = False
        self._hook: Any = None
        if engine.size > 1:
            if reduction == "adasum":
                engine._check_adasum()
            state.require_same_layout(engine, self.named, "wrap_optimizer: the optimizers' parameters")

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Reduce before each of the optimizer's steps from now on."""
        self._hook = optimizer.register_step_pre_hook(self._before_step)

    def detach(self) -> None:
        """Undo `attach`."""
        if self._hook is not None:
            self._hook.remove()

    def synchronize(self, optimizer: torch.optim.Optimizer) -> None:
        """Combine the gradients now, and not again before the next step."""
        if len(_parameters_of(optimizer)) != len(self.named):
            raise ReelkinError(
                "the optimizer was given more parameters after wrap_optimizer; wrap it again, or they would drift apart"
            )
        if self.reduction == "adasum":
            self._adasum()
        else:
            groups: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
            for _, parameter in self.named:
                groups.setdefault((parameter.dtype, parameter.device), []).append(parameter)
            for parameters in groups.values():
                self._average(parameters)
        self._synchronized = True

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # ``args`` holds the optimizer itself, then a closure if one was given.
        if len(args) > 1 or kwargs.get("closure") is not None:
            raise UsageError(
                "step(closure): a closure computes gradients after they were combined; call backward() and then step()"
            )
        if not self._synchronized:
            self.synchronize(optimizer)
        self._synchronized = False

    @torch.no_grad()
    def _average(self, parameters: list[nn.Parameter]) -> None:
        size = self.engine.size
        half = self.compression == "fp16"
        exact = parameters[0].dtype if parameters[0].dtype in (torch.float32, torch.float64) else torch.float32
        sizes = [parameter.numel() for parameter in parameters]
        flat = parameters[0].new_zeros(sum(sizes) + len(sizes), dtype=torch.float16 if half else exact)
        pieces = flat[: sum(sizes)].split(sizes)
        has_gradient = flat[sum(sizes) :]
        for position, (parameter, piece) in enumerate(zip(parameters, pieces, strict=True)):
            if parameter.grad is None:
                continue
            gradient = _dense(parameter).reshape(-1)
            # Dividing first keeps the sum of all ranks inside float16's range.
            piece.copy_(gradient.to(exact) / size if half else gradient)
            has_gradient[position] = 1 / size
        self.engine._reduce_in_place(flat, "gradients", "sum", plain.type_and_shape(flat))
        present = (has_gradient > 0).tolist()
        for parameter, piece, anywhere in zip(parameters, pieces, present, strict=True):
            if not anywhere:
                continue
            mean = piece.to(exact) if half else piece / size
            _set_gradient(parameter, mean)

    @torch.no_grad()
    def _adasum(self) -> None:
        present = torch.tensor([parameter.grad is not None for _, parameter in self.named])
        anywhere = self.engine.all_reduce(present, "gradients present", op="max").tolist()
        names, parameters, wires = [], [], []
        for (name, parameter), needed in zip(self.named, anywhere, strict=True):
            if not needed:
                continue
            gradient = torch.zeros_like(parameter) if parameter.grad is None else _dense(parameter)
            exact = parameter.dtype if parameter.dtype in (torch.float32, torch.float64) else torch.float32
            wires.append(gradient.reshape(-1).to(torch.float16 if self.compression == "fp16" else exact, copy=True))
            names.append(name)
            parameters.append(parameter)
        with self.engine._collective("adasum", "gradients", f"{len(wires)} parameters"):
            self.engine._adasum_(wires, names)
        for parameter, wire in zip(parameters, wires, strict=True):
            _set_gradient(parameter, wire)


def _parameters_of(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def _dense(parameter: nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    assert gradient is not None
    if gradient.is_sparse:
        raise UsageError("sparse gradients are not supported; build the embedding with sparse=False")
    return gradient


def _set_gradient(parameter: nn.Parameter, flat: torch.Tensor) -> None:
    values = flat.view(parameter.shape)
    if parameter.grad is None:
        parameter.grad = values.to(parameter.dtype, copy=True)
    else:
        parameter.grad.copy_(values)
