"""What is done to one untrusted input before it is packed; runs in a child process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .container import Limits
from .decode import decode_whole
from .isolation import Check, Request
from .probe import probe


def prepare(request: Request, check: Check, limits: Limits) -> dict[str, Any]:
    """Look at one input, and make clip files where its own bytes are not what is packed.

    Returns:
        ``facts``: `Probe.facts` of the whole video; ``clips``: a list of `clips.ClipFile` as dictionaries, or None
        when the file is packed as it is.

    Raises:
        DataError: why the input is rejected.
        OSError: a clip file could not be written.
    """
    source = Path(request.path)
    found = probe(source, limits=limits)
    if check == "full":
        decode_whole(source, limits=limits)
    return {"facts": found.facts(), "clips": None}
