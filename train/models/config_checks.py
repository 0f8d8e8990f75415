"""Checks that the aggregators' configurations share."""

from __future__ import annotations

from typing import Any

from ...core.errors import UsageError


def check_counts(config: Any, *names: str) -> None:
    """Raise UsageError unless each of these fields is at least 1."""
    for name in names:
        if getattr(config, name) < 1:
            raise UsageError(f"{name} is {getattr(config, name)}; it must be at least 1")


def check_dropout(dropout: float) -> None:
    """Raise UsageError unless this is a probability below 1."""
    if not 0 <= dropout < 1:
        raise UsageError(f"dropout is {dropout}; it must be at least 0 and below 1")
