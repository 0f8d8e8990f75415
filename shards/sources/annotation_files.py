"""Reading annotation files that people have published, copied and edited: tolerant of lines, clear about what is wrong.

A bad line costs itself and is named with file and line; a file that holds nothing usable is a usage error.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...core.errors import ReelkinError, UsageError
from ...core.pickles import load_annotation_pickle
from .inputs import printable

logger = logging.getLogger(__name__)


def read_text(path: Path) -> str:
    """A text file; bytes that are no UTF-8 survive as surrogates, as in file names.

    Raises:
        UsageError: the file cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"annotations: cannot read {path}: {error.strerror}") from None


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty, from 1, without spaces around them; any of the three line ends."""
    # not splitlines, which also splits at characters that a name may hold
    text = read_text(path).replace("\r\n", "\n").replace("\r", "\n")
    for number, line in enumerate(text.split("\n"), 1):
        if line := line.strip():
            yield number, line


class LineReport:
    """Lines of one annotation file, counted as they are read.

    Args:
        path: the file.
        expected: what its lines should be, for messages.
    """

    def __init__(self, path: Path, expected: str) -> None:
        self.path = path
        self.expected = expected
        self.used = 0
        self.dropped: list[str] = []
        self.doubtful: list[str] = []

    def lines(self) -> Iterator[tuple[int, str]]:
        """Lines of the file; each is counted as used until `drop` names it."""
        for number, line in numbered_lines(self.path):
            self.used += 1
            yield number, line

    def drop(self, number: int, line: str, why: str = "") -> None:
        """The line cannot be used."""
        self.used -= 1
        self.dropped.append(_named(number, line, why))

    def doubt(self, number: int, line: str, why: str) -> None:
        """A part of the line cannot be used."""
        self.doubtful.append(_named(number, line, why))

    def close(self) -> None:
        """Name in the log what could not be used.

        Raises:
            UsageError: no line could be used.
        """
        if self.dropped and not self.used:
            raise UsageError(
                f"annotations: {self.path} is not what it should be, lines of the form {self.expected}; it begins with "
                f"{self.dropped[0]}; move it away, or give the right files with --annotations"
            )
        if self.dropped:
            _warn(self.path, "lines are left out", self.dropped, f"expected: {self.expected}")
        if self.doubtful:
            _warn(self.path, "lines are used in part", self.doubtful, "")
        if not self.dropped and not self.used:
            logger.warning("annotations: %s is empty", self.path)


def _named(number: int, line: str, why: str) -> str:
    return f"line {number} ({printable(line)[:160]!r}{': ' + why if why else ''})"


def _warn(path: Path, what: str, lines: list[str], tail: str) -> None:
    shown = "; ".join(lines[:5]) + ("; ..." if len(lines) > 5 else "")
    logger.warning("annotations: %s: %d %s: %s%s", path, len(lines), what, shown, f"; {tail}" if tail else "")


def whole_number(text: str) -> int | None:
    """``text`` as a number of at most nine digits, else None."""
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"annotations: {path} is no JSON ({error}); give the published file") from None


def read_pickle(path: Path, *keys: str) -> dict[str, Any]:
    """The content of a published annotation pickle: a dict that has ``keys``.

    Raises:
        UsageError: it is refused (see `core.pickles`), or has other keys.
    """
    try:
        content = load_annotation_pickle(path)
    except ReelkinError as error:
        raise UsageError(f"annotations: {error}") from error
    if not isinstance(content, dict) or not set(keys) <= set(content):
        has = ", ".join(sorted(map(str, content))[:5]) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise UsageError(f"annotations: {path} should hold {', '.join(keys)}; it holds {printable(has)[:200]}")
    return content


def wrong_structure(path: Path, error: Exception) -> UsageError:
    """An error for a JSON or pickle whose inside is not as published."""
    what = f"{type(error).__name__}: {printable(str(error))[:100]}"
    return UsageError(
        f"annotations: {path} is not built like the published file ({what}); get it again, or give another with "
        "--annotations"
    )
