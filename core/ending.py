"""How a process of several ranks ends: at once, when all is done and said.

What runs after a program's last line, the interpreter's and the libraries' own tidying up, can crash a rank whose work
is done: of some hundred ranks under torch.distributed one died of SIGABRT there ("terminate called without an active
exception"), and its launcher called a finished run failed.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
from contextlib import suppress

_code: int | None = None


def note_exit_code(code: int) -> int:
    """Say with which code this process is about to end, once nothing is left to do; gives it back."""
    global _code
    _code = code
    return code


def skip_teardown() -> None:
    """Let this process end right after the exit handlers that are registered from now on, if its code is noted then."""
    atexit.register(_leave)


def _leave() -> None:
    if _code is None:
        return
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # a closed pipe, a full disk
            stream.flush()
    os._exit(_code)
