"""Log lines: one an event, whatever a name from outside holds."""

from __future__ import annotations

import logging
import re

import pytest

from reelkin.core.logs import one_line, setup_logging

NASTY = (
    "clip\n12:00:00 I all is well",
    "clip\r12:00:00 I all is well",
    "\x1b[2J\x1b]0;title\x07\x1b[31mred",
    "\x9b31mred",
    "caf\udce9",
    "line\u2028separator\u0085next",
    "right-to-left \u202e4pm.exe",
    "bell\a back\b tab\t null\0",
)


@pytest.mark.parametrize("name", NASTY)
def test_a_name_can_neither_forge_a_line_nor_command_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging()
    logger = logging.getLogger("reelkin.test")
    logger.info("rejected %s: damaged", name)
    written = capsys.readouterr().err
    assert all(line.isprintable() for line in written.split("\n"))
    first, *more = written.removesuffix("\n").split("\n")
    assert re.match(r"\d\d:\d\d:\d\d I rejected ", first)
    assert all(line.startswith("    ") for line in more)


def test_a_traceback_keeps_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    setup_logging()
    try:
        raise ValueError("12:00:00 I\nall is well")
    except ValueError:
        logging.getLogger("reelkin.test").exception("it failed")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 3 and all(line.startswith("    ") for line in lines[1:])


def test_text_that_is_printable_stays_as_it_is() -> None:
    for text in ("plain", "Ünïcödé 北京 видео 😀", "back\\slash"):
        assert one_line(text) == text
    assert one_line("a\nb\x1b\udce9") == r"a\nb\x1b\udce9"
