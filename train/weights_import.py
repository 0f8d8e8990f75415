"""Published weights become a model folder: what train/import_checkpoint.py does once the flags are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ExitCode, UsageError
from ..core.files import sha256_file
from .checkpoint import is_model_folder, save_model
from .models.aggregators import out_dim
from .models.published_weights import PUBLISHED_HEADS, read_published_weights


@dataclass(frozen=True, kw_only=True)
class ImportConfig:
    """Turn the weights that TCA's published code saved (or a comparable model's) into a model folder."""

    input: Path
    """File of torch.save with the state dict; nothing in it is run."""
    output: Path
    """Model folder; an earlier model there is replaced."""
    num_heads: int = PUBLISHED_HEADS
    """Attention heads that the weights were trained with; they cannot be told from the file."""


def import_weights(config: ImportConfig) -> int:
    """Convert, and say what was found.

    Raises:
        UsageError: the output is something else than a model.
        ReelkinError: the file is refused; see `read_published_weights`.
    """
    if config.output.exists() and not is_model_folder(config.output):
        raise UsageError(f"--output {config.output} exists and is no model folder; give another name")
    model = read_published_weights(config.input, config.num_heads)
    facts = {
        "weights": config.input.name,
        "weights sha256": sha256_file(config.input),
        "features": "as those that the weights were trained on: the same encoder and PCA, which the file does not name",
    }
    save_model(model, config.output, facts)
    dims = f"features of {model.config.dim} dimensions to embeddings of {out_dim(model)}"
    print(f"{config.output}: {model.name}, {dims}")
    if model.name == "tca":
        print(f"{config.num_heads} attention heads, as told: a wrong number gives other embeddings, and no error")
    return int(ExitCode.OK)
