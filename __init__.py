"""Reelkin finds every video that shows what a given video shows.

The few calls that most programs want; everything else is in the packages::

    import reelkin

    print(reelkin.similarity("a.mp4", "b.mp4", model="index"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .search.api import similarity as similarity

__all__ = ["similarity"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # On demand: the stages' own scripts must not pay for what they do not use, nor import what stands above them.
    if name == "similarity":
        from .search.api import similarity

        return similarity
    raise AttributeError(f"module 'reelkin' has no attribute {name!r}")
