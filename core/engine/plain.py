"""Values and tensors as bytes: what travels between ranks is JSON or raw memory, never pickle."""

from __future__ import annotations

import json
from typing import Any

import torch

PLAIN = (str, int, float, bool, type(None))


def encode(value: Any) -> torch.Tensor:
    """A plain value as JSON in a uint8 tensor [bytes] on the CPU.

    Args:
        value: None, bool, int, float (also inf and nan), str, lists or tuples of these, dicts with str keys. A tuple
            comes back as a list.

    Raises:
        TypeError: the value holds anything else; the message says where and which type.
    """
    _check(value, "value")
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def decode(data: torch.Tensor) -> Any:
    """The value of a uint8 tensor [bytes] that `encode` made."""
    return json.loads(data.cpu().numpy().tobytes())


def _check(value: Any, where: str) -> None:
    # Exact types: json would turn an IntEnum or a dict's int keys into something else without a word.
    if type(value) in PLAIN:
        return
    if type(value) in (list, tuple):
        for position, item in enumerate(value):
            _check(item, f"{where}[{position}]")
        return
    if type(value) is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r} of type {type(key).__name__}; only str keys are plain")
            _check(item, f"{where}[{key!r}]")
        return
    raise TypeError(
        f"{where} is a {type(value).__name__}; between ranks go None, bool, int, float, str, lists and dicts of them, "
        "and tensors"
    )


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of a tensor as uint8 [bytes]; shares it if the tensor is contiguous. Works for every dtype."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


def type_and_shape(tensor: torch.Tensor, ragged: bool = False) -> str:
    """For example ``float32[8, 512] cpu``; with ``ragged``, where the first size is open, ``float32[*, 512] cpu``."""
    sizes = ["*", *map(str, tensor.shape[1:])] if ragged else list(map(str, tensor.shape))
    return f"{str(tensor.dtype).removeprefix('torch.')}[{', '.join(sizes)}] {tensor.device.type}"


def pack(tree: Any, tensors: list[torch.Tensor]) -> Any:
    """A tree of dicts, lists, tuples, tensors and plain values as a plain value; its tensors are added to ``tensors``.

    Unlike `encode` this keeps tuples and int keys, which optimizer states hold.

    Raises:
        TypeError: the tree holds another type.
    """
    if isinstance(tree, torch.Tensor):
        tensors.append(tree.detach())
        return {"tensor": [str(tree.dtype).removeprefix("torch."), list(tree.shape)]}
    if isinstance(tree, dict):
        if not all(type(key) in (str, int) for key in tree):
            raise TypeError(f"a state's keys are str or int, got {sorted({type(key).__name__ for key in tree})}")
        return {"dict": [[key, pack(item, tensors)] for key, item in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"tuple" if isinstance(tree, tuple) else "list": [pack(item, tensors) for item in tree]}
    if type(tree) in PLAIN:
        return {"plain": tree}
    raise TypeError(f"a state with a value of type {type(tree).__name__} cannot be sent to the other ranks")


def empty_tensors(packed: Any) -> list[torch.Tensor]:
    """Uninitialised CPU tensors of the dtypes and shapes that ``packed`` (from `pack`) speaks of, in its order."""
    [(kind, content)] = packed.items()
    if kind == "tensor":
        return [torch.empty(content[1], dtype=getattr(torch, content[0]))]
    if kind == "plain":
        return []
    items = [item for _, item in content] if kind == "dict" else content
    return [tensor for item in items for tensor in empty_tensors(item)]


def unpack(packed: Any, tensors: list[torch.Tensor]) -> Any:
    """The inverse of `pack`; takes its tensors from the front of ``tensors``."""
    [(kind, content)] = packed.items()
    if kind == "tensor":
        return tensors.pop(0)
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [unpack(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    return content
