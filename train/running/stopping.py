"""Signals that ask for an orderly stop."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals(request: Callable[[], None]) -> Iterator[None]:
    """While the body runs, SIGTERM and SIGINT call ``request`` instead of ending the process.

    Outside the main thread nothing is changed: signals cannot be caught there.
    """

    def on_signal(number: int, frame: Any) -> None:
        request()

    try:
        before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
