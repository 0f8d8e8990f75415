"""Model folders: ``model.safetensors``, ``config.json`` and ``card.md``, published as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ..core.errors import ReelkinError, UsageError
from ..core.files import publish_json, publish_text, publishing_folder, read_json, sha256_file
from .models.aggregators import build_aggregator

FORMAT, VERSION = "reelkin-model", 1


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
        content = {"format": FORMAT, "version": VERSION, "aggregator": name, **config}
        publish_json(temporary / "config.json", {**content, "weights_sha256": sha256_file(weights), "facts": facts})
        publish_text(temporary / "card.md", model_card(name, config, facts))


def load_model(folder: str | Path) -> nn.Module:
    """Read a model folder; nothing in it is executed.

    Returns:
        The aggregator in eval mode, float32, on the CPU.

    Raises:
        ReelkinError: the folder is not a model of a version that this program reads, or its parts do not fit.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ReelkinError(f'{folder} is no Reelkin model: its config.json lacks "format": "{FORMAT}"')
    if config.get("version") != VERSION:
        raise ReelkinError(
            f"{folder} is a model of version {config.get('version')}; this program reads version {VERSION}: train it "
            "again, or use the program that made it"
        )
    other = {"format", "version", "aggregator", "weights_sha256", "facts"}
    fields = {key: value for key, value in config.items() if key not in other}
    weights = folder / "model.safetensors"
    try:
        model = build_aggregator(str(config.get("aggregator")), fields)
        state = load_file(weights)
    except (UsageError, TypeError, OSError, SafetensorError) as error:
        raise ReelkinError(f"the model in {folder} cannot be read: {error}; copy or train it again") from error
    if (expected := config.get("weights_sha256")) and sha256_file(weights) != expected:
        raise ReelkinError(f"{weights} is not the file that its config.json speaks of; copy the whole folder again")
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ReelkinError(f"the weights in {folder} do not fit its config.json: {error}") from error
    return model.eval()


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
