"""The global random generators of a rank's process (torch, numpy, Python), saved and put back.

What this project draws is keyed by what it is for (`core.seeds`) and needs none of this. A model or a loss of one's own
that draws from a global generator resumes exactly all the same.
"""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..seeds import seed_of

if TYPE_CHECKING:
    from .base import Engine


def seed_rng(seed: int, rank: int) -> None:
    """Seed this process's global generators; each rank gets numbers of its own."""
    torch.manual_seed(seed_of(seed, "torch", rank))
    np.random.seed(seed_of(seed, "numpy", rank) % 2**32)
    random.seed(seed_of(seed, "python", rank))


def rng_state(device: torch.device) -> dict[str, Any]:
    """The state of this process's global generators.

    Args:
        device: a GPU's generator is included when this is one.

    Returns:
        Tensors, lists and plain values, which ``torch.load(weights_only=True)`` reads.
    """
    _, keys, position, has_gauss, gauss = np.random.get_state()
    version, numbers, spare = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [torch.from_numpy(np.asarray(keys).astype(np.int64)), int(position), int(has_gauss), float(gauss)],
        "python": [version, torch.tensor(numbers, dtype=torch.int64), spare],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put back what `rng_state` returned; a GPU's state is passed over on a CPU."""
    torch.set_rng_state(state["torch"])
    keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), position, has_gauss, gauss))
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers.tolist()), spare))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def gather_rng_states(engine: Engine) -> list[dict[str, Any]]:
    """Every rank's `rng_state` in rank order, on every rank; a collective."""
    buffer = io.BytesIO()
    torch.save(rng_state(engine.device), buffer)
    own = torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)
    sizes = engine.all_gather_object(len(own), "sizes of random states")
    pieces = engine.all_gather(own, "random states").split(sizes)
    return [torch.load(io.BytesIO(piece.numpy().tobytes()), weights_only=True) for piece in pieces]
