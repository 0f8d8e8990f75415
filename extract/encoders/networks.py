"""Backbones by name, and networks made of them: backbone, feature maps of some stages, descriptor, projection.

Stages are found by looking: one picture goes through the backbone, and the outputs of its main blocks are grouped by
their size. The last output of each size ends a stage, and the last four stages count (those of a ResNet are its
``layer1`` to ``layer4``). A network whose maps all have one size (ViT) has no stages and gives its own embedding only.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...core.errors import UsageError
from .backbones import Backbone, load_backbone
from .descriptors import POOLINGS
from .frames import InputKind, Preprocessing, to_network_input
from .spec import Descriptor, Window

MOST_STAGES = 4
_SHRINKS = 0.75  # unpadded convolutions lose a few pixels within a stage; a stride loses half


@dataclass(frozen=True)
class Stage:
    """Where a stage ends: module, position of the channels among the dimensions, their number."""

    module: str
    channel_axis: int
    channels: int


@dataclass(frozen=True)
class Architecture:
    """What a network is made of; together with its weights it gives the same numbers anywhere.

    Attributes:
        name: "torchvision:NAME", "timm:NAME" or one of `spec.VIDEO_NETWORKS`.
        descriptor: None: imac where the backbone has stages and takes frames, else head.
        stages: numbers from 1 on; None: all of them, for avg the last.
        projection: a linear layer to so many dimensions on the descriptor, L2-normalised; 0: none.
        preprocessing: None: the backbone's own.
        window: None: single frames, or 16 pictures every 16 for clip encoders.
    """

    name: str
    descriptor: Descriptor | None = None
    stages: tuple[int, ...] | None = None
    projection: int = 0
    preprocessing: Preprocessing | None = None
    window: Window | None = None


class Network(nn.Module):
    """A trainable encoder. Made by `make_network`.

    Attributes:
        backbone: the network as its library defines it, classifier included.
        architecture: without None: what was chosen.
        dim: length of a descriptor.
    """

    def __init__(self, backbone: Backbone, architecture: Architecture, stages: list[Stage], unused: str, dim: int):
        super().__init__()
        self.backbone = backbone.module
        self.architecture = architecture
        self.unused = unused
        self._ends = [stages[number - 1] for number in architecture.stages or ()]
        own = sum(stage.channels for stage in self._ends) if architecture.descriptor != "head" else dim
        self.projection = nn.Linear(own, architecture.projection) if architecture.projection else None
        self.dim = architecture.projection or own

    def set_input(self, preprocessing: Preprocessing, window: Window) -> None:
        """Take pictures of another size, or windows of another length."""
        self.architecture = replace(self.architecture, preprocessing=preprocessing, window=window)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W], for clip encoders [N, 3, L, H, W], float, normalised -> [N, dim]."""
        if self.architecture.descriptor == "head":
            found = _embedding(self.backbone, self.unused, x)
        else:
            with _outputs(self.backbone, [end.module for end in self._ends]) as outputs:
                self.backbone(x)
            maps = [outputs[end.module].movedim(end.channel_axis, 1) for end in self._ends]
            found = POOLINGS[str(self.architecture.descriptor)](maps)
        return found if self.projection is None else functional.normalize(self.projection(found), dim=1)


def make_network(architecture: Architecture, backbone: Backbone | None = None) -> Network:
    """Make a network with the weights that its library begins with.

    Args:
        architecture: what it is made of; None is filled in.
        backbone: made before by `backbones.load_backbone`, to save the time.

    Returns:
        The network in evaluation mode.

    Raises:
        UsageError: the backbone is unknown, lacks a stage, or cannot take the pictures; or the descriptor does not fit.
        ReelkinError: its library is not installed.
    """
    backbone = backbone or load_backbone(architecture.name)
    backbone.module.eval()
    kind: InputKind = backbone.input
    preprocessing = architecture.preprocessing or Preprocessing(backbone.size, backbone.crop, kind)
    window = architecture.window or (Window(16, 16) if backbone.is_video else Window())
    if backbone.is_video != (window.frames > 1) and not backbone.is_video:
        raise UsageError(f"{architecture.name} takes single frames, not windows of {window.frames}")
    stages, unused, head = _survey(backbone, _blank(backbone, window, backbone.crop, backbone.crop))
    side = preprocessing.crop or preprocessing.short_side
    if side != backbone.crop or not preprocessing.crop:
        _check_size(
            backbone, _blank(backbone, window, side, side if preprocessing.crop else 3 * side // 2), architecture
        )
    descriptor = architecture.descriptor or ("imac" if stages and not backbone.is_video else "head")
    numbers = architecture.stages
    if descriptor == "head":
        numbers = ()
    else:
        if not stages:
            raise UsageError(
                f"{architecture.name} has no feature maps of several sizes; only --descriptor head fits it"
            )
        if descriptor == "rmac" and backbone.is_video:
            raise UsageError("--descriptor rmac is defined for single frames; use imac, avg or head with clip encoders")
        every = tuple(range(1, len(stages) + 1))
        numbers = numbers or (every if descriptor != "avg" else every[-1:])
        if max(numbers) > len(stages):
            raise UsageError(f"--stages: {architecture.name} has stages 1 to {len(stages)}, not {max(numbers)}")
    whole = replace(architecture, descriptor=descriptor, stages=numbers, preprocessing=preprocessing, window=window)
    return Network(backbone, whole, stages, unused, head).eval()


def _units(body: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The main blocks: the children, and the children of containers among them."""
    for name, child in body.named_children():
        if isinstance(child, (nn.Sequential, nn.ModuleList)):
            yield from ((f"{name}.{inner}", module) for inner, module in child.named_children())
        else:
            yield name, child


@contextmanager
def _outputs(body: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """What modules give while the body runs in this thread, in order of time. Threads that encode share the body."""
    found: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def listener(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:
                found[name] = output

        return hook

    handles = [body.get_submodule(name).register_forward_hook(listener(name)) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _blank(backbone: Backbone, window: Window, height: int, width: int) -> Tensor:
    shape = (1, window.frames, height, width, 3) if backbone.is_video else (1, height, width, 3)
    return to_network_input(torch.zeros(shape, dtype=torch.uint8), backbone.input, torch.device("cpu"))


def _check_size(backbone: Backbone, x: Tensor, architecture: Architecture) -> None:
    try:
        with torch.inference_mode():
            backbone.module(x)
    except Exception as error:  # each network has its own way of refusing a size
        raise UsageError(
            f"{architecture.name} cannot take pictures of {x.shape[-2]} x {x.shape[-1]} pixels "
            f"({(str(error).strip().splitlines() or [''])[0][:200]}); its own convention is --size {backbone.size} "
            f"--crop {backbone.crop}"
        ) from error


def _survey(backbone: Backbone, x: Tensor) -> tuple[list[Stage], str, int]:
    """Stages, name of the classifying layer ("" if none), length of the embedding before it."""
    body = backbone.module
    units = [
        each for each, module in _units(body) if not isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d)
    ]
    layers = [each for each, module in body.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    with torch.inference_mode(), _outputs(body, [*units, *layers]) as outputs, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = body(x)
    unused = next(reversed([each for each in outputs if each in layers]), "") if backbone.has_classifier else ""
    layer: Any = body.get_submodule(unused) if unused else None
    head = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels if layer else output.shape[1]
    stages: list[Stage] = []
    largest = 0
    for each in (each for each in outputs if each in units):
        end = _as_map(each, outputs[each], x.ndim)
        if end is None or (unused and unused.split(".")[0] == each.split(".")[0]):
            continue
        stage, side = end
        if not stages or side <= _SHRINKS * largest:
            stages.append(stage)
            largest = side
        else:
            stages[-1] = stage
    return (stages[-MOST_STAGES:] if len(stages) > 1 else []), unused, int(head)


def _as_map(name: str, output: Any, dimensions: int) -> tuple[Stage, int] | None:
    """The stage that would end here, and its side; None for what is no feature map of the square picture."""
    if not isinstance(output, Tensor) or output.ndim != dimensions:
        return None
    shape = output.shape
    if shape[-1] == shape[-2] > 1:
        return Stage(name, 1, shape[1]), shape[-1]
    if shape[-2] == shape[-3] > 1:
        return Stage(name, dimensions - 1, shape[-1]), shape[-2]
    return None


def _embedding(body: nn.Module, classifier: str, x: Tensor) -> Tensor:
    """What enters the classifier, averaged over space if it has any; without one, what the network gives."""
    entering: list[Tensor] = []
    handle = None
    thread = threading.get_ident()

    def listener(module: nn.Module, inputs: Any) -> None:
        if threading.get_ident() == thread:
            entering.append(inputs[0])

    if classifier:
        handle = body.get_submodule(classifier).register_forward_pre_hook(listener)
    try:
        output = body(x)
    finally:
        if handle is not None:
            handle.remove()
    found = entering[-1] if entering else output
    return found.flatten(2).mean(dim=2) if found.ndim > 2 else found
