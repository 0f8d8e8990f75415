"""One command at a time in an output folder: two would write over each other's work."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import ReelkinError


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold a folder against other commands; it is made when missing, and goes again when the body leaves it empty.

    The kernel lets go when the process ends, however that is. A network disk that knows no locks holds nobody up.

    Raises:
        ReelkinError: another process holds the folder, or it cannot be made.
    """
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise ReelkinError(f"cannot use the folder {folder}: {error.strerror or error}; choose another") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ReelkinError(
                f"another command is at work in {folder}; wait for its end, then run this one again"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(descriptor)
        if made:
            with suppress(OSError):
                folder.rmdir()
