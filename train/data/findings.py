"""What was found odd in labels and features: counted, some of it named, said once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ...core.ids import some_of


@dataclass(frozen=True)
class Finding:
    """One kind of oddity.

    Attributes:
        what: the kind, and what was done about it.
        names: whom it concerns, in the order found, as often as it was found.
    """

    what: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what}: {len(self.names)} ({some_of(self.names)})"


class Findings:
    """Collects oddities by kind."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, what: str, name: str) -> None:
        """One more of this kind."""
        self._names.setdefault(what, []).append(name)

    def add_all(self, what: str, names: Iterable[str]) -> None:
        """Several more of this kind, perhaps none."""
        for name in names:
            self.add(what, name)

    def listed(self) -> tuple[Finding, ...]:
        """One `Finding` a kind, in the order of their first."""
        return tuple(Finding(what, tuple(names)) for what, names in self._names.items())
