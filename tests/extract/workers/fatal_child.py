"""A decoding child whose fate is written in the name of the clip's file."""

from __future__ import annotations

import os
import signal
from typing import Any

from reelkin.extract.decoding import pyav_child
from reelkin.extract.decoding.child import Handle, Output, serve


def prepare(settings: dict[str, Any]) -> Handle:
    handle = pyav_child.prepare(settings)

    def fatal(request: dict[str, Any], out: Output) -> None:
        name = os.path.basename(request["path"])
        if name.startswith("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if name.startswith("hang"):
            out.allow(0.5)
            while True:
                pass
        if name.startswith("greedy"):
            bytearray(64 << 30)
        if name.startswith("babble"):
            out._connection.send_bytes(b"\x00 nonsense")
        if name.startswith("beyond"):
            out.say(chunk={"offset": 1 << 40, "shape": [1, 40, 40, 3], "times": [0.0]})
        if name.startswith("fault"):
            raise ZeroDivisionError("a mistake of ours")
        handle(request, out)
        if name.startswith("once") and not os.path.exists(request["path"] + ".died"):
            open(request["path"] + ".died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    return fatal


if __name__ == "__main__":
    serve(prepare)
