"""Command lines from dataclasses, and the frame that every entry script runs in.

A stage's configuration is a frozen dataclass; the docstring under each field is its help text, and ``__post_init__``
raises ``UsageError`` (or ``ValueError``) with the field, the value and the fix. ``parse`` turns flags into it,
``command`` turns what a stage raises into one clear line and an exit code.
"""

from __future__ import annotations

import dataclasses
import enum
import faulthandler
import functools
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TypeVar

import tyro

from .ending import note_exit_code
from .errors import ExitCode, ReelkinError
from .launched import launched_rank
from .logs import one_line

__all__ = ["as_dict", "command", "launched_rank", "parse", "super_init"]

Config = TypeVar("Config")


def _say(text: str) -> None:
    if launched_rank() == 0:
        print(text, file=sys.stderr, flush=True)


def parse(config_class: type[Config], argv: Sequence[str] | None = None, *, prog: str, example: str) -> Config:
    """Read ``config_class`` from command-line flags.

    Args:
        config_class: a dataclass, or a union of dataclasses (then the first argument chooses one).
        argv: the arguments; default ``sys.argv[1:]``.
        prog: the command's name as the user types it.
        example: a command line that would run; shown with ``--help`` and when a flag is missing.

    Returns:
        The configuration. Flags may be written with ``-`` or ``_``.

    Raises:
        SystemExit: with 2 after a usage message on stderr (once, from rank 0), with 0 after ``--help``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    out, err = io.StringIO(), io.StringIO()
    try:
        # tyro prints by itself; held back so that of many ranks only one speaks.
        with redirect_stdout(out), redirect_stderr(err):
            return tyro.cli(config_class, prog=prog, args=arguments, description=_description(config_class, example))
    except SystemExit as stop:
        if stop.code in (0, None):
            if launched_rank() == 0:
                print(out.getvalue(), end="", flush=True)
            raise SystemExit(int(ExitCode.OK)) from None
        _say((out.getvalue() + err.getvalue()).rstrip() + f"\n\nA line that runs:\n    {example}")
        raise SystemExit(int(ExitCode.USAGE)) from None
    except ValueError as error:  # from __post_init__
        _say(f"{prog}: {error}")
        raise SystemExit(int(ExitCode.USAGE)) from None


def _description(config_class: Any, example: str) -> str:
    text = (getattr(config_class, "__doc__", None) or "").strip()
    return f"{text}\n\nExample: {example}"


def _safe(error: Exception) -> str:
    """The message with what a file's name may hold written as escapes; its own line ends stay."""
    return "\n".join(one_line(line) for line in str(error).split("\n"))


def command(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Wrap an entry script's ``main(argv) -> exit code``: what it raises becomes a message and an exit code.

    ``UsageError`` and ``ValueError`` of the configuration end with 2, ``ReelkinError`` with 1, Ctrl-C with 75; anything
    else is a fault of ours and shows its traceback. ``REELKIN_TRACEBACK=1`` shows tracebacks always.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> int:
        # Started with a stream closed (2>&-) Python has none in its place; what is printed then goes nowhere.
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
        sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
        for stream in (sys.stdout, sys.stderr):
            # A file name may hold bytes that are no text; a message must not fail for it.
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        _show_fatal_signals()
        code = _guarded(main, argv)
        # With flags of its own it was called by a program that goes on.
        return note_exit_code(code) if argv is None else code

    return wrapped


def _guarded(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    try:
        return int(main(argv))
    except ReelkinError as error:
        if os.environ.get("REELKIN_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {_safe(error)}", file=sys.stderr, flush=True)
        return int(ExitCode.USAGE if isinstance(error, ValueError) else ExitCode.FAILED)
    except KeyboardInterrupt:
        print("stopped on request; run the same command again to go on", file=sys.stderr, flush=True)
        return int(ExitCode.STOPPED)
    except MemoryError:
        print("error: out of memory; lower the batch size or the number of workers", file=sys.stderr, flush=True)
        return int(ExitCode.FAILED)


def _show_fatal_signals() -> None:
    """Let a signal that ends the process say where it was: a bad disk under a mapped file (SIGBUS) raises nothing."""
    if not faulthandler.is_enabled():
        with suppress(OSError, ValueError):  # a stream without a descriptor
            faulthandler.enable()


def super_init(owner: type, config: Any) -> None:
    """Call the ``__post_init__`` of the next settings class after ``owner``, if there is one.

    A stage's configuration is put together from settings classes that stand beside what they set; each checks its own
    fields and then the next one's.
    """
    following = getattr(super(owner, config), "__post_init__", None)
    if following is not None:
        following()


def as_dict(config: Any) -> Any:
    """A configuration as plain JSON values: dataclasses become dicts, paths and enums strings, tuples lists."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: as_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, enum.Enum):
        return config.value
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, dict):
        return {str(key): as_dict(value) for key, value in config.items()}
    if isinstance(config, (list, tuple, set, frozenset)):
        return [as_dict(value) for value in config]
    return config
