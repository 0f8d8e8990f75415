"""A decoding child that takes too long for the clip of 4 seconds."""

from __future__ import annotations

from typing import Any

from reelkin.extract.decoding import pyav_child
from reelkin.extract.decoding.child import Handle, Output, serve
from reelkin.shards.video.probe import make_plan


def prepare(settings: dict[str, Any]) -> Handle:
    handle = pyav_child.prepare(settings)

    def slow(request: dict[str, Any], out: Output) -> None:
        if round(make_plan(pyav_child.read_source(request)).probe.duration_seconds) == 4:
            out.allow(0.2)
            while True:
                pass
        handle(request, out)

    return slow


if __name__ == "__main__":
    serve(prepare)
