"""Arrays of pictures: a ``.npy`` file is a video (the layout ``npy``)."""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import UsageError
from .folders import folders_below, measure
from .inputs import Candidate, Found, Kind, SourceOptions

ARRAY_EXTENSION = ".npy"
TREE = "SOURCE/<video>.npy or SOURCE/<video>/<anything>.npy"


def find_arrays(source: Path, options: SourceOptions) -> Found:
    """Find the arrays of one source, in both published layouts, also mixed.

    ``source/<video>.npy`` has the id ``<video>``. ``source/<video>/<anything>.npy`` has the id ``<video>``, the path of
    its folder relative to the source, however deep. A folder with several arrays gives a video for each, with the ids
    ``<video>/<stem>``: the published loader takes the first and passes over the others without a word. Links to
    folders are followed, hidden files and folders left out.

    Args:
        source: a folder, or a single ``.npy`` file.
        options: not used.

    Returns:
        One candidate an array, of kind ARRAY.

    Raises:
        UsageError: the source does not exist, is another file, or holds no array at all.
    """
    found = Found([])
    if source.is_file() and source.suffix.lower() == ARRAY_EXTENSION:
        found.candidates.append(Candidate(source.stem, source.name, str(source), source.name, Kind.ARRAY))
        return found
    if not source.is_dir():
        raise UsageError(f"videos: {source} is neither a folder nor a .npy file; the layout npy expects {TREE}")
    for folder in folders_below(source):
        arrays = []
        for entry in folder.files:
            extension = os.path.splitext(entry.name)[1].lower()
            if extension == ARRAY_EXTENSION:
                arrays.append(entry)
            else:
                found.ignored[extension or "(none)"] += 1
        for entry in arrays:
            name = f"{folder.name}/{entry.name}" if folder.name else entry.name
            stem = os.path.splitext(name)[0]
            video_id = folder.name if folder.name and len(arrays) == 1 else stem
            size, newest = measure([entry])
            # A link to nowhere has no size yet: looked up with the others, it is found missing.
            known = (size, newest) if newest else (-1, -1)
            found.candidates.append(Candidate(video_id, name, str(folder.path / entry.name), name, Kind.ARRAY, *known))
    if not found.candidates:
        raise UsageError(f"videos: {source} holds no .npy file; the layout npy expects {TREE}")
    return found
