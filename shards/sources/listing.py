"""Which videos a build takes: sources of one layout, turned into one sorted list of inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...core.errors import UsageError
from .files import find_files
from .inputs import Candidate, Found, Listing, SourceOptions, account_for

LAYOUTS: dict[str, Callable[[Path, SourceOptions], Found]] = {
    "files": lambda source, options: find_files(source),
}
"""How sources may be laid out, by name."""


def list_videos(sources: Sequence[Path], layout: str = "files", options: SourceOptions | None = None) -> Listing:
    """List the inputs.

    Args:
        sources: what the layout expects; for "files" folders, video files and lists (see `files.find_files`).
        layout: a name in `LAYOUTS`.
        options: see there.

    Returns:
        The inputs sorted by id (see `inputs.account_for`).

    Raises:
        UsageError: a source does not exist, or cannot be understood.
    """
    listing = Listing([])
    candidates: list[Candidate] = []
    for source in sources:
        found = LAYOUTS[layout](Path(source), options or SourceOptions())
        candidates += found.candidates
        listing.ignored += found.ignored
        for name, table in found.tables.items():
            if name in listing.tables:
                raise UsageError(f"videos: {source} brings a second table of {name}; give one data set at a time")
            listing.tables[name] = table
    listing.inputs = account_for(candidates)
    return listing
