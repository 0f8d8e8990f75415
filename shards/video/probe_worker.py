"""A child process that probes videos: requests come as JSON lines on stdin, answers go as JSON lines to stdout.

A file that crashes the decoder, or never lets it come back, then costs that file and no other. Started by
`isolation.ProbePool`; not meant to be run by hand.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from .container import Limits
from .decode import decode_whole
from .probe import probe

_GRACE_SECONDS = 5.0


def answer(request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Probe one file: its facts, or the reason for which it is rejected."""
    path = Path(request["path"])
    try:
        found = probe(path, limits=limits)
        if request["check"] == "full":
            decode_whole(path, limits=limits)
        return {"facts": found.facts()}
    except DataError as error:
        return {"reason": error.reason.value, "detail": str(error)}
    except Exception:
        return {"fault": traceback.format_exc()}


def main() -> None:
    """Serve requests until stdin ends."""
    settings = json.loads(sys.argv[1])
    # Answers get a channel of their own: a library that prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    if settings["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limits = Limits(**settings["limits"])
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills a child that takes too long; this is for a parent that is gone.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE_SECONDS)
        reply = answer(request, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply, ensure_ascii=True), file=answers, flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    main()
