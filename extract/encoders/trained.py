"""Folders of encoders that were trained here: ``model.safetensors`` and ``config.json``, published as a whole.

config.json holds ``format``, ``version``, ``weights_sha256``, ``facts`` (what the trainer wants to be known) and
``encoder``: architecture, stages, descriptor, projection, preprocessing, window, dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ...core.errors import ReelkinError, UsageError
from ...core.files import publish_json, publishing_folder, read_json, sha256_file
from .frames import Preprocessing
from .networks import Architecture, Network, make_network
from .spec import Window

FORMAT, VERSION = "reelkin-encoder", 1


def save_encoder(network: Network, folder: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Publish an encoder as a folder; an earlier one of that name is replaced.

    Args:
        network: made by `networks.make_network`, then trained.
        folder: its final name.
        facts: JSON values that are to be known of it ("recipe", "trained on", "licence"...).

    Raises:
        ReelkinError: the disk is full or the folder cannot be written.
    """
    made = network.architecture
    assert made.preprocessing is not None and made.window is not None  # make_network filled them in
    encoder = {
        "architecture": made.name,
        "descriptor": made.descriptor,
        "stages": list(made.stages or ()),
        "projection": made.projection,
        "preprocessing": made.preprocessing.as_dict(),
        "window": asdict(made.window),
        "dim": network.dim,
    }
    with publishing_folder(folder) as temporary:
        weights = temporary / "model.safetensors"
        save_file({name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}, weights)
        weights.chmod(0o644)  # safetensors makes it readable by the owner alone
        content = {"format": FORMAT, "version": VERSION, "encoder": encoder, "weights_sha256": sha256_file(weights)}
        publish_json(temporary / "config.json", {**content, "facts": dict(facts or {})})


def load_encoder(folder: str | Path) -> tuple[Network, str]:
    """Read what `save_encoder` wrote; nothing in the folder is executed.

    Args:
        folder: of the encoder, or of the training run that holds it under ``model``.

    Returns:
        The network in evaluation mode, float32, on the CPU; and the SHA-256 of its weights.

    Raises:
        UsageError: the folder holds something else.
        ReelkinError: it is damaged, or of another version.
    """
    folder = find_encoder(folder)
    config = read_json(folder / "config.json")
    if config.get("version") != VERSION:
        raise ReelkinError(
            f"{folder} is an encoder of version {config.get('version')}; this program reads version {VERSION}: train "
            "it again, or use the program that made it"
        )
    weights = folder / "model.safetensors"
    try:
        digest = sha256_file(weights)
        if digest != config["weights_sha256"]:
            raise ReelkinError(f"{weights} is not the file that its config.json speaks of; copy the whole folder again")
        state = load_file(weights)
        made = config["encoder"]
        network = make_network(
            Architecture(
                made["architecture"],
                made["descriptor"],
                tuple(made["stages"]) or None,
                made["projection"],
                Preprocessing(**made["preprocessing"]),
                Window(**made["window"]),
            )
        )
    except (OSError, SafetensorError, KeyError, TypeError, UsageError) as error:
        raise ReelkinError(f"the encoder in {folder} cannot be read: {error}; copy or train it again") from error
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ReelkinError(f"the weights in {folder} do not fit its config.json: {error}") from error
    return network.eval(), digest


def find_encoder(folder: str | Path) -> Path:
    """The encoder's own folder. Raises UsageError when ``folder`` holds none, and says what it holds instead."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"--weights {folder}: no such folder; --encoder run takes a folder that training wrote")
    for place in (folder, folder / "model"):
        if not (place / "config.json").exists():
            continue
        config = read_json(place / "config.json")
        found = config.get("format") if isinstance(config, dict) else None
        if found == FORMAT:
            return place
        if found == "reelkin-model":
            raise UsageError(
                f"--weights {place} holds a model that works on frame features, not on frames; extract with the "
                "encoder that it was trained on, then give it the features"
            )
    raise UsageError(
        f'--weights {folder} holds no encoder: no config.json with "format": "{FORMAT}"; a run that is not '
        "finished has none yet"
    )
