"""Model folders: ``model.safetensors``, ``config.json`` and ``card.md``, published as a whole; published weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..core.errors import ReelkinError, UsageError
from ..core.files import publish_json, publish_text, publishing_folder, read_json, sha256_file
from .models.aggregators import build_aggregator
from .models.published_weights import read_published_weights

FORMAT, VERSION = "reelkin-model", 1
NOT_RECORDED = "not recorded"
"""Said of what made the features where their file does not tell (HDF5); then it cannot be compared either."""


def save_model(model: nn.Module, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Publish an aggregator as a folder; an earlier one of that name is replaced.

    Args:
        model: built by `build_aggregator`.
        folder: its final name.
        facts: what the card is to say, in its order: a table of names and plain values ("features", "encoder", "PCA",
            "trained on", "licence"...). Kept in config.json too, under ``facts``.
    """
    name, config = str(model.name), dataclasses.asdict(cast(Any, model.config))
    facts = dict(facts or {})
    with publishing_folder(folder) as temporary:
        weights = temporary / "model.safetensors"
        save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, weights)
        weights.chmod(0o644)  # safetensors makes it readable by the owner alone
        content = {**_description(model), "weights_sha256": sha256_file(weights), "facts": facts}
        publish_json(temporary / "config.json", content)
        publish_text(temporary / "card.md", model_card(name, config, facts))


@dataclass(frozen=True)
class LoadedModel:
    """A model and where it comes from.

    Attributes:
        module: the aggregator in eval mode, float32, on the CPU.
        path: as it was asked for.
        folder: its model folder; None for published weights, which have none.
        config: content of config.json, or what it would be.
        sha256: of the file of weights.
    """

    module: nn.Module
    path: Path
    folder: Path | None
    config: Mapping[str, Any]
    sha256: str

    @property
    def name(self) -> str:
        """The aggregator's name."""
        return str(self.module.name)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the card says, as far as it is known."""
        return cast(Mapping[str, Any], self.config.get("facts") or {})


def load_model(path: str | Path) -> nn.Module:
    """The aggregator of `open_model`: in eval mode, float32, on the CPU. Raises as that does."""
    return open_model(path).module


def open_model(path: str | Path) -> LoadedModel:
    """Read a model; nothing in it is executed.

    Args:
        path: a model folder; a run folder, whose trained model is taken; or a file of published weights, if its
            transformer has as many heads as published (`published_weights`).

    Raises:
        ReelkinError: there is no model of a version that this program reads, its parts do not fit, or published weights
            are refused.
    """
    path = Path(path)
    if path.is_file():
        module = read_published_weights(path)
        facts = {"weights": path.name}
        return LoadedModel(module, path, None, {**_description(module), "facts": facts}, sha256_file(path))
    folder = _folder_of(path)
    config = _read_config(folder)
    module, digest = _read_module(folder, config)
    return LoadedModel(module, path, folder, config, digest)


def is_model_folder(path: Path) -> bool:
    """Whether a folder says that it is a model, of whatever version."""
    try:
        config = read_json(path / "config.json")
    except ReelkinError:
        return False
    return isinstance(config, dict) and config.get("format") == FORMAT


def _folder_of(path: Path) -> Path:
    """The model folder that ``path`` is or, as a run folder does, holds."""
    inner = path / "model"
    return inner if not (path / "model.safetensors").exists() and (inner / "config.json").exists() else path


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ReelkinError(
            f'{folder} is no Reelkin model: its config.json lacks "format": "{FORMAT}"; a run folder holds a model '
            "once its run has finished"
        )
    if config.get("version") != VERSION:
        raise ReelkinError(
            f"{folder} is a model of version {config.get('version')}; this program reads version {VERSION}: train it "
            "again, or use the program that made it"
        )
    return config


def _read_module(folder: Path, config: Mapping[str, Any]) -> tuple[nn.Module, str]:
    other = {"format", "version", "aggregator", "weights_sha256", "facts"}
    fields = {key: value for key, value in config.items() if key not in other}
    weights = folder / "model.safetensors"
    try:
        model = build_aggregator(str(config.get("aggregator")), fields)
        state = load_file(weights)
    except (UsageError, TypeError, OSError, SafetensorError) as error:
        raise ReelkinError(f"the model in {folder} cannot be read: {error}; copy or train it again") from error
    digest = sha256_file(weights)
    if (expected := config.get("weights_sha256")) and digest != expected:
        raise ReelkinError(f"{weights} is not the file that its config.json speaks of; copy the whole folder again")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ReelkinError(f"the weights in {folder} do not fit its config.json: {error}") from error
    return model.eval(), digest


def _description(model: nn.Module) -> dict[str, Any]:
    fields = dataclasses.asdict(cast(Any, model.config))
    return {"format": FORMAT, "version": VERSION, "aggregator": str(model.name), **fields}


def num_parameters(model: nn.Module) -> int:
    """Trainable numbers in the model."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def model_card(name: str, config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """The card's text (Markdown)."""
    rows = {**facts}
    rows.setdefault("licence", "not stated; whoever publishes this model must say, minding the terms of the videos")
    lines = [
        f"# Video retrieval model ({name})",
        "",
        "Turns the frame features of a video, float [T, D], into one embedding of unit length; the cosine of two",
        "embeddings says how far the videos show the same thing. The features must come from the encoder and the PCA",
        "named below; with others the embeddings mean nothing.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {key} | {_cell(value)} |" for key, value in rows.items()),
        *(f"| {key} | {_cell(value)} |" for key, value in config.items()),
        "",
        "Read it with `reelkin.train.checkpoint.load_model(folder)`; it holds no code.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = ", ".join(f"{key}: {each}" for key, each in value.items()) if isinstance(value, dict) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
