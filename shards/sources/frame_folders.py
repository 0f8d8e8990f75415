"""Videos that were taken apart: a folder of images is a video (the layout ``frames``).

The published layout is ImageFolder's: ``root/<video>/<frame>.jpg``, or ``root/<class>/<video>/<frame>.jpg``.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...core.errors import UsageError
from ..video.frame_names import is_image
from .folders import folders_below, measure
from .inputs import Candidate, Found, Kind, SourceOptions

TREE = "SOURCE/[<class>/]<video>/<frame>.jpg (or .png and the like)"


def find_frame_folders(source: Path, options: SourceOptions) -> Found:
    """Find the frame folders of one source.

    Every folder that holds images directly is a video; its id is its path relative to the source, or its name when it
    is the source itself. Of a folder that holds images and folders with images, each is a video: pictures of
    different folders are never put in one row, as their names say nothing about each other. Links to folders are
    followed, hidden files and folders left out, as are pictures of optical flow (``flow_x_00001.jpg``). Files that are
    no images (``n_frames``) are counted.

    Args:
        source: a folder.
        options: not used.

    Returns:
        One candidate a folder, of kind FRAMES: bytes is the sum of its images, modified_ns that of the newest.

    Raises:
        UsageError: the source is not a folder, or holds no image at all.
    """
    if not source.is_dir():
        raise UsageError(f"videos: {source} is not a folder; the layout frames expects {TREE}")
    found = Found([])
    for folder in folders_below(source):
        images = [entry for entry in folder.files if is_image(entry.name)]
        for entry in folder.files:
            if not is_image(entry.name):
                found.ignored[os.path.splitext(entry.name)[1].lower() or "(none)"] += 1
        if images:
            name = folder.name or Path(os.path.abspath(source)).name
            size, newest = measure(images)
            found.candidates.append(Candidate(name, name, str(folder.path), name, Kind.FRAMES, size, newest))
    if not found.candidates:
        raise UsageError(f"videos: {source} holds no images; the layout frames expects {TREE}")
    return found
