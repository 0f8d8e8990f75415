"""Copying rank 0's training state to the other ranks, and checking that ranks hold the same bits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import ReelkinError
from . import plain

if TYPE_CHECKING:
    from .base import Engine

BUCKET_BYTES = 64 * 2**20


def named_tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters, then buffers (also those that ``state_dict`` leaves out), each tensor once."""
    return [*model.named_parameters(), *model.named_buffers()]


def broadcast_state(engine: Engine, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
    """Rank 0's optimizer state, then its parameters and buffers, to all ranks; see `Engine.broadcast_state`."""
    if optimizer is not None:
        _broadcast_optimizer(engine, optimizer)
    named = named_tensors(model)
    require_same_layout(engine, named, "broadcast_state: the models")
    broadcast_tensors(engine, [tensor for _, tensor in named], "model state")


def require_same_layout(engine: Engine, named: Iterable[tuple[str, torch.Tensor]], what: str) -> None:
    """Raise ReelkinError on every rank unless names, dtypes, shapes and their order agree."""
    own = [f"{name} {plain.type_and_shape(tensor)}" for name, tensor in named]
    digest = hashlib.sha256("\n".join(own).encode()).hexdigest()
    if len(set(engine.all_gather_object(digest, "layout digest"))) == 1:
        return
    layouts = engine.all_gather_object(own, "layout")
    rank, position = next(
        (rank, position)
        for rank, other in enumerate(layouts)
        for position in range(max(len(layouts[0]), len(other)))
        if other[position : position + 1] != layouts[0][position : position + 1]
    )
    first = next(iter(layouts[0][position : position + 1]), "nothing more")
    other = next(iter(layouts[rank][position : position + 1]), "nothing more")
    raise ReelkinError(f"{what} differ: at position {position} rank 0 has {first}, rank {rank} has {other}")


def broadcast_tensors(engine: Engine, tensors: list[torch.Tensor], name: str) -> None:
    """Overwrite the tensors with rank 0's, in buckets of at most about 64 MiB so that memory stays bounded."""
    for bucket in _buckets(tensors):
        flat = torch.cat([plain.as_bytes(tensor) for tensor in bucket])
        engine.broadcast_(flat, name)
        if engine.rank == 0:
            continue
        pieces = flat.split([tensor.numel() * tensor.element_size() for tensor in bucket])
        with torch.no_grad():
            for tensor, piece in zip(bucket, pieces, strict=True):
                # A clone is aligned; a slice of the bucket need not be for the tensor's dtype.
                tensor.copy_(piece.clone().view(tensor.dtype).view(tensor.shape))


def _buckets(tensors: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    bucket: list[torch.Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size > BUCKET_BYTES or tensor.device != bucket[0].device):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


def _broadcast_optimizer(engine: Engine, optimizer: torch.optim.Optimizer) -> None:
    # Horovod's own broadcast makes ranks with an empty state take a step to create it, which changes their weights
    # when there is weight decay. Loading the state that rank 0 describes needs no step.
    tensors: list[torch.Tensor] = []
    packed = plain.pack(optimizer.state_dict(), tensors) if engine.is_main else None
    packed = engine.broadcast_object(packed, "optimizer state layout")
    if engine.is_main:
        tensors = [tensor.cpu() for tensor in tensors]
    else:
        tensors = plain.empty_tensors(packed)
    broadcast_tensors(engine, tensors, "optimizer state")
    if not engine.is_main:
        try:
            optimizer.load_state_dict(plain.unpack(packed, tensors))
        except ValueError as error:
            raise ReelkinError(f"broadcast_state: rank 0's optimizer does not fit rank {engine.rank}'s") from error


def digest(value: torch.Tensor | nn.Module | torch.optim.Optimizer | Any) -> str:
    """sha256 (hex) of a tensor, of a model's parameters and buffers, of an optimizer's state, or of a tree of tensors
    and plain values."""
    tree: Any = value
    if isinstance(value, nn.Module):
        tree = dict(named_tensors(value))
    elif isinstance(value, torch.optim.Optimizer):
        tree = value.state_dict()
    tensors: list[torch.Tensor] = []
    hasher = hashlib.sha256(json.dumps(plain.pack(tree, tensors)).encode())
    for tensor in tensors:
        hasher.update(plain.as_bytes(tensor).cpu().numpy().data)
    return hasher.hexdigest()
