"""Runs of commands, watched from outside: what they said, which processes they have, what they left behind."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """How a command ended.

    Attributes:
        code: its exit code.
        said: its standard output.
        log: its standard error.
    """

    code: int
    said: str
    log: str


def run_here(main: Callable[[list[str]], int], *arguments: str | Path) -> Ran:
    """Run a command's ``main`` in this process."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
    said, log = (stream.buffer.getvalue().decode() for stream in streams)  # type: ignore[attr-defined]
    return Ran(code, said, log)


def children(pid: int | str = "self") -> set[int]:
    """Processes that a process has started and that are still there."""
    found: set[int] = set()
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    except OSError:  # it ended meanwhile
        pass
    return found


def descendants(pid: int) -> set[int]:
    """Its children, theirs, and so on."""
    found = children(pid)
    return found.union(*(descendants(child) for child in found))


def command_line(pid: int) -> str:
    """What a process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether it runs; one that ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until_gone(pids: Iterable[int], seconds: float = 30.0) -> None:
    """Fail when processes outlive what started them."""
    limit = time.monotonic() + seconds
    while left := [pid for pid in pids if alive(pid)]:
        assert time.monotonic() < limit, f"still there: {[command_line(pid)[:200] for pid in left]}"
        time.sleep(0.02)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, hidden things and empty folders (None) included."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = os.lstat(path)
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found
