"""What the two writers of clip files share: a muxer over a Python file, whose OSError comes through as it is."""

from __future__ import annotations

from typing import IO

from av.container import OutputContainer

BITEXACT = {"fflags": "+bitexact"}
"""No version strings, dates or random ids: the same packets give the same bytes."""


def abandon_output(file: IO[bytes], out: OutputContainer | None) -> None:
    """Close a file as it is, whether it is whole or not."""
    try:
        file.close()  # first: the muxer then does not try to write its end
    except OSError:  # what could not be written was reported before
        pass
    if out is not None:
        out.close()
