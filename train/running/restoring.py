"""Finding the checkpoint to go on from, and handing it to all ranks."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...core.engine import Engine
from ...core.errors import ReelkinError, UsageError
from .run_folder import RunFolder
from .settings import LoopConfig

log = logging.getLogger("reelkin.train")

FORMAT = 1
"""Of a checkpoint's state; another one is refused."""
PIECE_BYTES = 2**28
_ABOUT_THE_CHECKPOINT = frozenset({"step", "run"})


def restored(
    engine: Engine, folder: RunFolder, config: LoopConfig, identity: Mapping[str, Any]
) -> tuple[int, dict[str, Any]]:
    """The newest whole checkpoint of the run folder. Rank 0 finds and reads it and sends it to all: no shared disk is
    needed.

    Returns:
        (step, state on the CPU); (0, {}) where there is none. Where the labels have changed, the state is without
        "best": of other held-out videos its figure says nothing.

    Raises:
        UsageError: the checkpoint is of another run or format, or ``--resume never`` and there is one.
        ReelkinError: it cannot be read. All of this on every rank.
    """
    found = engine.on_main(lambda: _find(folder, config, identity), "checkpoint found")
    if not found["name"]:
        return 0, {}
    path = folder.checkpoints / found["name"] / "state.pt"
    data = torch.empty(found["bytes"], dtype=torch.uint8)
    if engine.is_main:
        data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    for piece in data.split(PIECE_BYTES):
        engine.broadcast_(piece, "checkpoint")
    state = torch.load(io.BytesIO(data.numpy().data), map_location="cpu", weights_only=True)
    if not found["same_labels"] and state["best"]["weights"]:
        if engine.is_main:
            log.warning("the labels have changed; the best validation so far (%g) is forgotten", state["best"]["value"])
        del state["best"]
    return int(found["step"]), dict(state)


def _find(folder: RunFolder, config: LoopConfig, identity: Mapping[str, Any]) -> dict[str, Any]:
    checkpoint = folder.last_checkpoint()
    if checkpoint is None:
        return {"name": ""}
    if config.resume == "never":
        raise UsageError(
            f"{folder.path} holds the checkpoint {checkpoint.name}; give another --output, or --resume auto"
        )
    meta = RunFolder.read_meta(checkpoint)
    written_as = meta.get("run", {}).get("format")
    if written_as != FORMAT:
        raise UsageError(
            f"{checkpoint} is of format {written_as}; this program reads {FORMAT}: give another --output, or go on "
            "with the program that wrote it"
        )
    changes = differences(meta, identity)
    if changes and not config.allow_changes:
        raise UsageError(
            f"{checkpoint} belongs to another run: {'; '.join(changes)}. Give another --output, or --allow-changes "
            "to go on with its weights all the same"
        )
    try:
        size = (checkpoint / "state.pt").stat().st_size
    except OSError as error:
        raise ReelkinError(f"cannot read {checkpoint}: {error.strerror}") from error
    same_labels = meta.get("labels") == identity.get("labels")
    return {"name": checkpoint.name, "step": int(meta["step"]), "bytes": size, "same_labels": same_labels}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """What differs between two identities, as sentences such as "lr was 0.1, now 0.2"."""
    found: list[str] = []
    for name in sorted((set(old) | set(new)) - (_ABOUT_THE_CHECKPOINT if not where else set())):
        before, now = old.get(name), new.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{where}{name}.")
        elif before != now:
            found.append(f"{where}{name} was {before}, now {now}")
    return found
