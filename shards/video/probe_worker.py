"""A child process that probes videos: requests come as JSON lines on stdin, answers go as JSON lines to stdout.

A file that crashes the decoder, or never lets it come back, then costs that file and no other. Started by
`isolation.ProbePool`; not meant to be run by hand.
"""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import resource
import signal
import sys
import traceback
from typing import Any

from ...core.confinement import allow_cpu, bound, die_with
from ...core.errors import DataError, Reason
from .container import Limits, out_of_memory
from .isolation import Request
from .preparing import prepare

_GRACE_SECONDS = 5.0
_ADVICE = "Make room or check the permissions, then run the same command again: what was published before is kept"
_OPEN_FILES = 64
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)  # of the disk that clips are written to


def answer(request: dict[str, Any], limits: Limits, write_bytes: int | None = None) -> dict[str, Any]:
    """Look at one input: its facts and clips, the reason for which it is rejected, or a failure that is not its own."""
    fields = {field.name: request[field.name] for field in dataclasses.fields(Request)}
    try:
        return prepare(Request(**fields), request["check"], limits)
    except DataError as error:
        return {"reason": error.reason.value, "detail": str(error)}
    except MemoryError as error:
        return {"reason": Reason.DECODER_DIED.value, "detail": str(out_of_memory(error))}
    except OSError as error:
        text = error.strerror or str(error)
        if error.errno == errno.EFBIG and resource.getrlimit(resource.RLIMIT_FSIZE)[0] == write_bytes:
            return {
                "reason": Reason.TOO_LARGE.value,
                "detail": f"a clip of it would be larger than {write_bytes} bytes",
            }
        if error.errno in _DISK_ERRORS or str(error.filename or "").startswith(request["scratch"] or "\0"):
            return {"failure": f"cannot write {request['scratch']}: {text}. {_ADVICE}"}
        return {"reason": Reason.UNREADABLE.value, "detail": text}
    except Exception:
        return {"fault": traceback.format_exc()}


def main() -> None:
    """Serve requests until stdin ends."""
    settings = json.loads(sys.argv[1])
    # Answers get a channel of their own: a library that prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    die_with(settings["parent"])
    bound(resource.RLIMIT_AS, settings["memory_bytes"] or None)
    bound(resource.RLIMIT_FSIZE, settings["write_bytes"])
    bound(resource.RLIMIT_NOFILE, _OPEN_FILES)
    bound(resource.RLIMIT_CORE, 0)
    limits = Limits(**settings["limits"])
    gc.freeze()  # what is loaded now stays: collecting then costs next to nothing
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills a child that takes too long; this is for a parent that is gone.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + _GRACE_SECONDS)
        allow_cpu(request["cpu_seconds"])
        reply = {**answer(request, limits, settings["write_bytes"]), "number": request["number"]}
        gc.collect()  # an open container and what it yielded refer to one another, and are large
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(reply, ensure_ascii=True), file=answers, flush=True)


if __name__ == "__main__":
    main()
