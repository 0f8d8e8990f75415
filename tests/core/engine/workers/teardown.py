"""A command whose process would crash after its last line, as libraries sometimes do; under any launcher."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence

from reelkin.core.config import command
from reelkin.core.engine import start
from reelkin.core.errors import ReelkinError

if "crash" in sys.argv:
    atexit.register(os.abort)


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Meet the others, and end well or with an error."""
    with start() as engine:
        engine.barrier("all are here")
        print(f"rank {engine.rank} is done")
    if "fail" in sys.argv:
        raise ReelkinError("on purpose")
    return 0


if __name__ == "__main__":
    sys.exit(main())
