"""Backbones from torchvision and timm: the module as the library defines it, with its published weights and input."""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ...core.errors import ReelkinError, UsageError
from .frames import NORMALISATIONS, InputKind
from .spec import VIDEO_NETWORKS
from .torchvision_import import import_torchvision

RESNET50_V1 = "https://download.pytorch.org/models/resnet50-0676ba61.pth"
"""ImageNet weights IMAGENET1K_V1, which TCA's published descriptors use; the name holds the SHA-256's first digits."""

_SIZES_OF_TRAINING = 1.15
"""timm networks without a published crop share: short side over crop, as 256 over 224."""


@dataclass(frozen=True)
class Backbone:
    """A network as its library defines it.

    Attributes:
        module: with whatever weights the library begins with.
        size, crop: the published preprocessing: short side and centre crop in pixels.
        input: range of values that it was trained on.
        is_video: it takes clips [N, 3, L, H, W].
        has_classifier: its last layer classifies, and is no part of an embedding.
        url: of its published weights, "" if there are none or the library fetches them itself.
        sha256_prefix: of that file, as published.
    """

    module: nn.Module
    size: int
    crop: int
    input: InputKind
    is_video: bool = False
    has_classifier: bool = True
    url: str = ""
    sha256_prefix: str = ""


def load_backbone(name: str, *, pretrained: bool = False) -> Backbone:
    """Make a backbone.

    Args:
        name: "torchvision:NAME", "timm:NAME" or a clip network's name.
        pretrained: let timm fetch its weights (torchvision's are fetched by `weights.published_weights`).

    Raises:
        UsageError: no network has that name.
        ReelkinError: the library is missing, or timm cannot get the weights.
    """
    family, _, rest = name.partition(":")
    if family == "timm":
        return _from_timm(rest, pretrained)
    if name in VIDEO_NETWORKS:
        return _clip_network(name)
    return _from_torchvision(rest)


def _from_torchvision(name: str) -> Backbone:
    models = import_torchvision().models
    known = models.list_models(module=models)
    if name not in known:
        raise UsageError(f"--encoder torchvision:{name}: torchvision has no such network; it has {', '.join(known)}")
    settings: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):  # their published weights want their own input and a second classifier
        settings = {"transform_input": True, "aux_logits": True, "init_weights": False}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = models.get_model(name, weights=None, **settings)
    published = models.get_model_weights(name).DEFAULT
    presets = published.transforms()
    size, crop = presets.resize_size[0], presets.crop_size[0]
    kind = _input_kind(presets.mean, presets.std, f"torchvision:{name}")
    return Backbone(module, size, crop, kind, url=published.url, sha256_prefix=_digits(published.url))


def _clip_network(name: str) -> Backbone:
    models = import_torchvision().models
    with torch.random.fork_rng(devices=[]):
        module = models.get_model(name, weights=None)
    url = models.get_model_weights(name).DEFAULT.url
    # Published at 128 x 171 pixels, distorted; here the short side is 128 and nothing is distorted.
    return Backbone(module, 128, 112, "kinetics", is_video=True, url=url, sha256_prefix=_digits(url))


def _digits(url: str) -> str:
    return url.rsplit("/", 1)[1].rsplit(".", 1)[0].rsplit("-", 1)[-1]


def _from_timm(name: str, pretrained: bool) -> Backbone:
    timm = import_timm()
    if not timm.is_model(name):
        base = name.split(".")[0].split("_")[0]
        near = ", ".join(timm.list_models(f"*{base}*")[:12]) or "timm.list_models() names them"
        raise UsageError(f"--encoder timm:{name}: timm {timm.__version__} has no such network; near it: {near}")
    try:
        with torch.random.fork_rng(devices=[]):
            module = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub's client has its own errors, and is not always there
        if not pretrained:
            raise UsageError(f"--encoder timm:{name} cannot be made: {error}") from error
        raise ReelkinError(
            f"timm cannot get the weights of {name} ({' '.join(str(error).split())[:300]}). Fetch the file elsewhere "
            "and pass it with --weights FILE, or run with --weights random to try the pipeline without learnt weights"
        ) from error
    config = module.pretrained_cfg
    crop = int(config["input_size"][1])
    size = round(crop / (config.get("crop_pct") or 1 / _SIZES_OF_TRAINING))
    kind = _input_kind(config["mean"], config["std"], f"timm:{name}")
    return Backbone(module, max(size, crop), crop, kind, has_classifier=False)


def import_timm() -> types.ModuleType:
    """timm, imported beside any build of torch. Raises ReelkinError that says what to install."""
    import_torchvision()  # timm imports it, which needs care beside a CPU build of torch
    try:
        import timm
    except ImportError as error:
        raise ReelkinError(
            f'encoders named timm:... need the timm package ({error}); run: pip install "reelkin[timm]" or pip install '
            "timm"
        ) from error
    return timm


def _input_kind(mean: Sequence[float], std: Sequence[float], name: str) -> InputKind:
    for kind, known in NORMALISATIONS.items():
        if all(abs(a - b) < 1e-3 for a, b in zip((*mean, *std), (*known[0], *known[1]), strict=True)):
            return kind
    raise UsageError(f"{name} was trained on inputs of mean {mean} and deviation {std}, which no --input gives")
