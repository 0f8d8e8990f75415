"""Randomness that depends on what it is for, never on ranks, workers or the order of work."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_of(*parts: str | int) -> int:
    """A number in [0, 2**63) made from ``parts``: the same parts give the same number on every machine.

    Parts are separated and typed, so that ("a", "bc"), ("ab", "c") and (1, "1") all differ.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: str | int) -> np.random.Generator:
    """A numpy generator (Philox, the same numbers on every platform) keyed by ``parts``."""
    return np.random.Generator(np.random.Philox(seed_of(*parts)))
