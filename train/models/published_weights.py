"""Published weights: a state dict of TCA's original code (or of its NetVLAD, NeXtVLAD, LSTM, GRU) as an aggregator.

A state dict holds tensors under names and nothing else, so the shape of the model is read off the tensors' shapes. The
number of attention heads leaves no trace in them and has to be known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...core.errors import ReelkinError
from .aggregators import build_aggregator

PUBLISHED_HEADS = 8
TRAINED_DROPOUT = 0.2
"""The published training's; only further training would use it."""

State = dict[str, torch.Tensor]


def read_published_weights(path: str | Path, num_heads: int = PUBLISHED_HEADS) -> nn.Module:
    """Make an aggregator of a file that ``torch.save`` wrote; nothing in the file is executed.

    Args:
        path: the state dict of one encoder, or of the whole MoCo module, whose query encoder is then taken; keys may
            begin with ``module.``, and the state dict may be the entry ``state_dict`` or ``model`` of a checkpoint.
        num_heads: attention heads with which the weights were trained. Only transformers have any.

    Returns:
        The aggregator in eval mode, float32, on the CPU.

    Raises:
        ReelkinError: the file cannot be read or holds other than tensors, weights are missing, unknown, misshapen or
            not finite, or they cannot have been trained with so many heads.
    """
    path = Path(path)
    state = _encoder_state(_read(path), path)
    _check_values(state, path)
    name = _aggregator_of(state, path)
    reader = _Shapes(state, path)
    fields = _FIELDS[name](reader)
    if name == "tca":
        _check_heads(path, fields["dim"], num_heads)
        fields |= {"num_heads": num_heads, "dropout": TRAINED_DROPOUT}
    model = build_aggregator(name, fields)
    _check_names(set(state), set(model.state_dict()), path)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ReelkinError(f"the weights in {path} do not make a {name}: {error}") from error
    return model.float().eval()


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        raise ReelkinError(f"cannot read the weights {path}: {error.strerror}") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile or cut file can raise nearly anything; none of it ran
        # Not torch's own message, which advises to load the file unsafely.
        asked = re.search(r"GLOBAL (\S+)", str(error))
        why = f"it asks for {asked[1]}, which would run code" if asked else f"it is damaged ({type(error).__name__})"
        raise ReelkinError(f"{path} was refused as weights: {why}; give a state dict, saved by torch.save") from error


def _encoder_state(content: Any, path: Path) -> State:
    """The tensors of one encoder under this package's names."""
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content:
        found = f"a {type(content).__name__}" if content else f"an empty {type(content).__name__}"
        raise ReelkinError(f"{path} holds no state dict but {found}; save model.state_dict()")
    odd = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, torch.Tensor))]
    if odd:
        raise ReelkinError(f"{path} is no state dict: its entry {odd[0]!r} is not a tensor under a name")
    state = dict(content)
    if all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    if any(key.startswith("encoder_q.") for key in state):
        # Beside it stand the key encoder and the queue, which no one needs after training.
        state = {key.removeprefix("encoder_q."): value for key, value in state.items() if key.startswith("encoder_q.")}
    return {re.sub(r"^transformer_encoder\.", "encoder.", key): value for key, value in state.items()}


def _check_values(state: State, path: Path) -> None:
    for key, value in state.items():
        if value.layout != torch.strided or value.device.type != "cpu":  # sparse, or a shape without values
            raise ReelkinError(f"the weights {key} in {path} are no plain values ({value.layout}, {value.device.type})")
        if key.endswith("num_batches_tracked"):
            continue
        if not value.is_floating_point():
            raise ReelkinError(f"the weights {key} in {path} are {value.dtype}, not floating point")
        if not torch.isfinite(value).all():
            raise ReelkinError(
                f"the weights {key} in {path} are not all finite, so no embedding would be; take another"
            )


def _aggregator_of(state: State, path: Path) -> str:
    marks = {"tca": "encoder.layers.", "lstm": "LSTM.", "gru": "GRU.", "nextvlad": "conv3.", "netvlad": "centroids"}
    for name, mark in marks.items():
        if any(key.startswith(mark) for key in state):
            return name
    raise ReelkinError(
        f"{path} holds none of the published models: no key begins with {', '.join(marks.values())}; its first keys "
        f"are {', '.join(sorted(state)[:5])}"
    )


class _Shapes:
    """Sizes read off the tensors of a state dict."""

    def __init__(self, state: State, path: Path) -> None:
        self.state, self.path = state, path

    def __call__(self, key: str, axis: int) -> int:
        """Size of a tensor along an axis. Raises ReelkinError if there is none."""
        if key not in self.state:
            raise ReelkinError(f"the weights {key} are missing in {self.path}")
        shape = self.state[key].shape
        if axis >= len(shape) or not shape.numel():
            raise ReelkinError(f"the weights {key} in {self.path} have the shape {list(shape)}, which fits no model")
        return shape[axis]

    def layers(self, pattern: str) -> int:
        """How many different numbers the group of ``pattern`` matches; they must be 0, 1, 2..."""
        found = {int(match[1]) for key in self.state if (match := re.match(pattern, key))}
        if found != set(range(len(found))):
            raise ReelkinError(f"{self.path} has layers numbered {sorted(found)}; one is missing, or is there twice")
        return len(found)

    def ratio(self, large: tuple[str, int], small: tuple[str, int]) -> int:
        """The quotient of two sizes, rounded down; the strict load finds what does not fit."""
        return max(1, self(*large) // self(*small))


def _tca_fields(size: _Shapes) -> dict[str, Any]:
    return {
        "dim": size("encoder.layers.0.self_attn.in_proj_weight", 1),
        "num_layers": size.layers(r"encoder\.layers\.(\d+)\."),
        "feedforward": size("encoder.layers.0.linear1.weight", 0),
        "final_norm": "encoder.norm.weight" in size.state,
    }


def _netvlad_fields(size: _Shapes) -> dict[str, Any]:
    return {
        "dim": size("centroids", 1),
        "num_clusters": size("centroids", 0),
        "output_dim": size("fc1.weight", 0),
        "gating_reduction": size.ratio(("fc2.weight", 1), ("fc2.weight", 0)),
    }


def _nextvlad_fields(size: _Shapes) -> dict[str, Any]:
    return {
        "dim": size("conv1.weight", 1),
        "num_clusters": size("centroids", 0),
        "output_dim": size("fc1.weight", 0),
        "expansion": size.ratio(("conv1.weight", 0), ("conv1.weight", 1)),
        "groups_of_channels": size("conv2.weight", 0),
        "gating_reduction": size.ratio(("fc2.weight", 1), ("fc2.weight", 0)),
    }


def _recurrent_fields(network: str) -> Callable[[_Shapes], dict[str, Any]]:
    def fields(size: _Shapes) -> dict[str, Any]:
        return {
            "dim": size(f"{network}.weight_ih_l0", 1),
            "output_dim": size(f"{network}.weight_hh_l0", 1),
            "num_layers": size.layers(rf"{network}\.weight_ih_l(\d+)$"),
        }

    return fields


_FIELDS: dict[str, Callable[[_Shapes], dict[str, Any]]] = {
    "tca": _tca_fields,
    "netvlad": _netvlad_fields,
    "nextvlad": _nextvlad_fields,
    "lstm": _recurrent_fields("LSTM"),
    "gru": _recurrent_fields("GRU"),
}


def _check_heads(path: Path, dim: int, num_heads: int) -> None:
    if num_heads < 1 or dim % num_heads:
        fits = [heads for heads in range(1, 33) if dim % heads == 0]
        raise ReelkinError(
            f"the weights in {path} are for {dim} dimensions, which {num_heads} heads cannot share; give --num-heads "
            f"as in their training (published: {PUBLISHED_HEADS}; possible: {', '.join(map(str, fits))})"
        )


def _check_names(found: set[str], expected: set[str], path: Path) -> None:
    missing, unknown = sorted(expected - found), sorted(found - expected)
    if missing or unknown:
        parts = [f"{what}: {', '.join(keys[:5])}{f' and {len(keys) - 5} more' if len(keys) > 5 else ''}"
                 for what, keys in (("missing", missing), ("unknown", unknown)) if keys]  # fmt: skip
        raise ReelkinError(f"the weights in {path} are not those of a published model; {'; '.join(parts)}")
