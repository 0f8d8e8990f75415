"""What is done to one untrusted input before it is packed; runs in a child process.

A video file is packed as it is, unless it is to be cut. Frame folders and arrays become a video file first: one track
of JPEG images with their times, which every decoder takes.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from .arrays import pack_array
from .clips import ClipFile
from .container import Limits
from .cutting import cut_at_keyframes
from .decode import decode_whole
from .facts import facts_of
from .frames import pack_frames
from .isolation import Check, Request


def prepare(request: Request, check: Check, limits: Limits) -> dict[str, Any]:
    """Look at one input, and make clip files where its own bytes are not what is packed.

    Returns:
        ``facts``: `Probe.facts` of the whole video; ``clips``: a list of `clips.ClipFile` as dictionaries, or None
        when the file is packed as it is.

    Raises:
        DataError: why the input is rejected.
        OSError: a clip file could not be written.
    """
    source, folder = Path(request.path), Path(request.scratch)
    if request.kind != "file":
        folder.mkdir(parents=True, exist_ok=True)
        packed = folder / "packed.mp4"
        if request.kind == "frames":
            pack_frames(source, packed, frame_rate=request.frame_rate, names=request.frame_names, limits=limits)
        else:
            pack_array(source, packed, frame_rate=request.frame_rate, limits=limits)
        source = packed
    facts = facts_of(source, limits)
    if check == "full":
        decode_whole(source, limits=limits)
    clips: list[ClipFile] = []
    if request.clip_seconds is not None and facts["duration_seconds"] > request.clip_seconds:
        folder.mkdir(parents=True, exist_ok=True)
        clips = cut_at_keyframes(source, request.clip_seconds, folder, limits)
    if not clips and source != Path(request.path):
        clips = [_whole(source, facts)]
    return {"facts": facts, "clips": [asdict(clip) for clip in clips] or None}


def _whole(path: Path, facts: dict[str, Any]) -> ClipFile:
    size = path.stat().st_size
    return ClipFile(str(path), facts["container"], 0.0, facts["duration_seconds"], facts["num_frames"], size)
