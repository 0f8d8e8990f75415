"""A device that is not there: who would have computed on it."""

from __future__ import annotations

import pytest
import torch

from reelkin.search import similarity
from reelkin.train import embed

COMPUTING = {similarity.__name__, embed.__name__}
"""The modules that embed and compare."""


def note_devices(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, torch.device]]:
    """From now on what embeds or compares uses the CPU; the list gets its module and the device that it was given."""
    used: list[tuple[str, torch.device]] = []
    for module in (similarity, embed):

        def used_here(device: torch.device, name: str = module.__name__) -> torch.device:
            used.append((name, device))
            return torch.device("cpu")

        monkeypatch.setattr(module, "usable_device", used_here)
    return used
