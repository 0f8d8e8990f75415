"""A decoding child that rests before each clip."""

from __future__ import annotations

import time
from typing import Any

from reelkin.extract.decoding import pyav_child
from reelkin.extract.decoding.child import Handle, Output, serve


def prepare(settings: dict[str, Any]) -> Handle:
    handle = pyav_child.prepare(settings)

    def sleepy(request: dict[str, Any], out: Output) -> None:
        time.sleep(0.5)
        handle(request, out)

    return sleepy


if __name__ == "__main__":
    serve(prepare)
