"""From a specification to an encoder that runs: backbone, weights, descriptor, tuning."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from .backbones import RESNET50_V1, Backbone, load_backbone
from .encoder import Encoder
from .frames import Preprocessing, to_network_input
from .inflation import inflate
from .networks import Architecture, Network, make_network
from .scripted import find_input, load_scripted
from .spec import VIDEO_NETWORKS, EncoderSpec, Window, parse_stages
from .trained import find_encoder, load_encoder
from .tuning import Tuned, check_pictures, tune
from .weights import (
    RANDOM,
    Weights,
    file_weights,
    fill_with_random,
    load_state,
    published_weights,
    read_state,
    sha256_state,
)

log = logging.getLogger("reelkin.extract")


def build_encoder(spec: EncoderSpec, device: torch.device | str = "cpu", engine: Engine | None = None) -> Encoder:
    """Make an encoder, in evaluation mode and without gradients.

    Args:
        spec: which one.
        device: where it computes.
        engine: of a run with several ranks: one rank per machine downloads, and all take the same weights.

    Raises:
        UsageError: the name, the file or the sizes do not fit.
        ReelkinError: published weights were demanded and cannot be had, or a library is missing.
    """
    device = torch.device(device)
    raw = prepare(spec, device, engine)
    tuned = _tuned(spec, raw, device, engine)
    info = {
        "name": spec.name,
        "dim": raw.dim,
        "weights": raw.weights.name,
        "weights_sha256": raw.weights.sha256,
        "random_weights": raw.weights.random,
        "weights_path": str(raw.weights.path.resolve()) if raw.weights.path and raw.weights.path != Path() else None,
        "precision": tuned.precision,
        "preprocessing": raw.preprocessing.as_dict(),
        "window": asdict(raw.window),
        "compile": spec.compile,
        **raw.choices,
    }
    return Encoder(tuned, raw.dim, raw.preprocessing, device, info, raw.window)


@dataclass(frozen=True)
class RawEncoder:
    """A network with its weights, as its publisher would run it: nothing is tuned.

    Attributes:
        network: in evaluation mode, on the device; takes what ``preprocessing.input`` says.
        dim: length of a descriptor.
        preprocessing, window: what it is given.
        weights: where they come from.
        choices: architecture, descriptor, stages and the like, for store.json.
    """

    network: nn.Module
    dim: int
    preprocessing: Preprocessing
    window: Window
    weights: Weights
    choices: dict[str, Any]

    def check_input(self, device: torch.device) -> Tensor:
        """Made-up pictures as the network takes them, four frames or three clips; see `tuning.check_pictures`."""
        side = self.preprocessing.crop or self.preprocessing.short_side
        pictures = check_pictures(3 if self.window.frames > 1 else 4, side, side, self.window.frames)
        return to_network_input(pictures, self.preprocessing.input, device)


def prepare(spec: EncoderSpec, device: torch.device, engine: Engine | None = None) -> RawEncoder:
    """The encoder before it is tuned; arguments and errors as `build_encoder`."""
    if spec.name == "torchscript":
        return _prepare_scripted(spec, device, engine)
    if spec.name == "run":
        return _prepare_trained(spec, device)
    return _prepare_published(spec, device, engine)


def encoder_list() -> str:
    """What --encoder takes and what each gives, for help texts."""
    return (
        "resnet50: torchvision ResNet-50 with iMAC over its four stages, as TCA uses it, D = 3840; torchvision:NAME "
        "and timm:NAME: any classification network (torchvision:resnet18), D by --stages and --descriptor "
        f"(head: the network's own); {', '.join(VIDEO_NETWORKS)}: 3-D ResNets over clips, D = 512; torchscript: any "
        "TorchScript file given with --weights, D = as in the file; run: the folder of an encoder that was trained here"
    )


def spec_from_info(info: Mapping[str, Any], weights: str) -> EncoderSpec:
    """The specification behind an encoder's ``info``, as a store records it; ``weights`` names the file now."""
    preprocessing = info["preprocessing"]
    window = info.get("window") or {"frames": 1, "step": 1}
    named = info["name"] not in ("torchscript", "run")
    clips = info["name"] in VIDEO_NETWORKS or window["frames"] > 1
    stages, head = info.get("stages"), info.get("descriptor") == "head"
    return EncoderSpec(
        info["name"],
        weights,
        preprocessing["short_side"],
        preprocessing["crop"],
        preprocessing["input"],
        info["precision"],
        stages=",".join(map(str, stages)) if named and stages and not head else None,
        descriptor=info.get("descriptor") if named else None,
        inflate=info.get("inflate", False),
        clip_frames=window["frames"] if clips else None,
        clip_step=window["step"] if clips else None,
        compile=info.get("compile", False),
        scaling=preprocessing.get("scaling", "area"),
    )


def _prepare_published(spec: EncoderSpec, device: torch.device, engine: Engine | None) -> RawEncoder:
    name = "torchvision:resnet50" if spec.name == "resnet50" else spec.name
    if spec.input == "uint8":
        raise UsageError(f"--input uint8 does not fit {spec.name}, whose weights expect normalised frames")
    backbone = load_backbone(name)
    size = 256 if spec.name == "resnet50" else backbone.size  # TCA's; the newest published weights have another
    window = None
    if backbone.is_video:
        length = spec.clip_frames or 16
        window = Window(length, spec.clip_step or length)
    architecture = Architecture(
        name,
        spec.descriptor,
        parse_stages(spec.stages),
        preprocessing=_preprocessing(spec, size, backbone.crop, spec.input or backbone.input),
        window=window,
    )
    network = make_network(architecture, backbone)
    weights = _fill(spec, network, backbone, engine)
    return _of_network(spec, network, weights, device)


def _fill(spec: EncoderSpec, network: Network, backbone: Backbone, engine: Engine | None) -> Weights:
    """Give the network its weights."""
    url, prefix = backbone.url, backbone.sha256_prefix
    if spec.name == "resnet50":
        url, prefix = RESNET50_V1, "0676ba61"
    if spec.inflate:
        flat = load_backbone("torchvision:resnet18")
        url, prefix = flat.url, flat.sha256_prefix
    if spec.name.startswith("timm:") and spec.weights in ("default", "auto"):
        return _fill_from_timm(spec, network, engine)
    weights = _choose_weights(spec, url, prefix, engine)
    if weights.path is None:
        key = spec.name.rpartition(":")[2]
        return Weights("random", None, fill_with_random(network.backbone, key))
    state = read_state(weights.path)
    if spec.inflate:
        state = inflate(state, network.backbone, f"--weights {weights.path}")
    if "densenet" in spec.name:  # published under names that Python attributes cannot have
        state = {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.(\d)", r"\1\2", key): x for key, x in state.items()}
    classifier = [f"{network.unused}."] if network.unused else ["fc.", "head.fc.", "head.", "classifier."]
    load_state(network.backbone, state, str(weights.path), unused=[*classifier, "aux1.", "aux2.", "AuxLogits."])
    return weights


def _fill_from_timm(spec: EncoderSpec, network: Network, engine: Engine | None) -> Weights:
    def fetch() -> Weights:
        published = load_backbone(spec.name, pretrained=True)
        network.backbone.load_state_dict(published.module.state_dict())
        tag = published.module.pretrained_cfg.get("tag") or "pretrained"  # type: ignore[union-attr, operator]
        return Weights(f"timm {tag}", Path(), sha256_state(network.backbone))

    weights = _one_rank_first(fetch, spec.weights == "auto", engine)
    return weights or Weights("random", None, fill_with_random(network.backbone, spec.name.rpartition(":")[2]))


def _prepare_trained(spec: EncoderSpec, device: torch.device) -> RawEncoder:
    network, digest = load_encoder(spec.weights)
    made, own = network.architecture, network.architecture.preprocessing
    assert own is not None and made.window is not None  # make_network filled them in
    if spec.input not in (None, own.input):
        raise UsageError(f"--input {spec.input} does not fit {spec.weights}, which was trained on {own.input} frames")
    clips = made.window.frames > 1
    if (spec.clip_frames or spec.clip_step) and not clips:
        raise UsageError(f"--clip-frames, --clip-step: the encoder in {spec.weights} takes single frames, not clips")
    length = spec.clip_frames or made.window.frames
    window = Window(length, spec.clip_step or (made.window.step if length == made.window.frames else length))
    network.set_input(_preprocessing(spec, own.short_side, own.crop, own.input), window)
    folder = find_encoder(spec.weights)
    return _of_network(spec, network, Weights(Path(spec.weights).resolve().name, folder, digest), device)


def _preprocessing(spec: EncoderSpec, size: int, crop: int, kind: Any) -> Preprocessing:
    """As asked, else the encoder's own; a smaller picture is not cropped further."""
    side = spec.size or (size if spec.crop is None else max(size, spec.crop))
    return Preprocessing(side, min(crop, side) if spec.crop is None else spec.crop, kind, spec.scaling)


def _of_network(spec: EncoderSpec, network: Network, weights: Weights, device: torch.device) -> RawEncoder:
    made = network.architecture
    assert made.preprocessing is not None and made.window is not None  # make_network filled them in
    choices = {
        "architecture": made.name,
        "descriptor": made.descriptor,
        "stages": list(made.stages or ()),
        "inflate": spec.inflate,
    }
    module = network.requires_grad_(False).to(device)
    return RawEncoder(module, network.dim, made.preprocessing, made.window, weights, choices)


def _tuned(spec: EncoderSpec, raw: RawEncoder, device: torch.device, engine: Engine | None) -> Tuned:
    example = raw.check_input(device)
    one_size = raw.preprocessing.crop > 0
    tuned = tune(raw.network, example, spec.precision, one_size=one_size, compile=spec.compile)
    # ranks on unequal machines: all compute alike
    if engine is not None and engine.agree(tuned.precision == "float32", "precision") and tuned.precision != "float32":
        tuned = tune(raw.network, example, "float32", one_size=one_size, compile=spec.compile)
    return tuned


def _choose_weights(spec: EncoderSpec, url: str, sha256_prefix: str, engine: Engine | None) -> Weights:
    if spec.weights == "random":
        return _say_random("--weights random", engine)
    if spec.weights not in ("default", "auto"):
        return file_weights(Path(spec.weights))
    return _one_rank_first(lambda: published_weights(url, sha256_prefix), spec.weights == "auto", engine) or RANDOM


def _one_rank_first(fetch: Any, may_fail: bool, engine: Engine | None) -> Weights | None:
    """Fetch weights; None when that fails and may fail.

    Ranks of one machine share the cache: the first one fills it while the others wait.
    """
    weights, failure = None, None
    for turn in (True, False):
        if engine is None or (engine.local_rank == 0) == turn:
            try:
                weights = fetch()
            except ReelkinError as error:
                failure = error
        if engine is None:
            break
        engine.barrier(f"weights {turn}")
    failed_anywhere = failure is not None if engine is None else engine.agree(failure is not None, "weights missing")
    if not failed_anywhere:
        return weights
    if not may_fail:
        raise failure or ReelkinError("another rank could not get the weights; its message says why")
    _say_random(str(failure or "another rank could not get the published weights"), engine)
    return None


def _say_random(why: str, engine: Engine | None) -> Weights:
    if engine is None or engine.is_main:
        log.warning("RANDOM WEIGHTS: descriptors see colours and edges, but nothing was learnt. Why: %s", why)
    return RANDOM


def _prepare_scripted(spec: EncoderSpec, device: torch.device, engine: Engine | None) -> RawEncoder:
    path = Path(spec.weights)
    sizes = _preprocessing(spec, 256, 224, "uint8")
    weights = file_weights(path)
    module = load_scripted(path, device)
    found, dim = find_input(
        module, path, sizes.crop or sizes.short_side, (spec.input,) if spec.input else ("uint8", "imagenet"), device
    )
    preprocessing = Preprocessing(sizes.short_side, sizes.crop, found, spec.scaling)
    if engine is None or engine.is_main:
        log.info("%s takes %s frames and gives %d numbers a frame", weights.name, found, dim)
    return RawEncoder(module, dim, preprocessing, Window(), weights, {})
