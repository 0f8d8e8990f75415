"""A DALI child that dies of certain clips."""

from __future__ import annotations

import os
import signal
from typing import Any

from reelkin.extract.decoding import dali_child
from reelkin.extract.decoding.child import Handle, Output, serve


def prepare(settings: dict[str, Any]) -> Handle:
    handle = dali_child.prepare(settings)

    def fatal(request: dict[str, Any], out: Output) -> None:
        for sample in request["samples"]:
            if os.path.basename(sample["path"]).startswith("deadly"):
                os.kill(os.getpid(), signal.SIGSEGV)
        handle(request, out)

    return fatal


if __name__ == "__main__":
    serve(prepare)
