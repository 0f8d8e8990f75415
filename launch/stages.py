"""Runs stages one after the other as commands of their own, shown as a user would type them."""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

from ..core.errors import ExitCode, ReelkinError
from .run_ranks import choose_launcher, launcher_prefix, run_gently, run_ranks

ROOT = Path(__file__).resolve().parent.parent


class Stages:
    """A numbered list of stage commands.

    Args:
        count: how many stages will be run; shown as "[2/9]".

    Attributes:
        seconds: wall-clock seconds by title, in the order run.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.seconds: dict[str, float] = {}

    def run(self, title: str, script: str, *arguments: object, ranks: int = 1, output: Path | None = None) -> None:
        """Run ``script`` (a path inside the package, such as "shards/build.py") and wait for it.

        Args:
            title: what the stage does, for a person.
            arguments: its flags and their values, written as ``str`` gives them.
            ranks: above 1, the stage runs under horovodrun, or under torchrun where Horovod is missing (said aloud).
            output: the stage's output folder, whose outcome.json holds its exit code; only for several ranks.

        Raises:
            ReelkinError: the stage failed; the message holds the command line. More rejects than the stage's budget
                is not a failure here: the rejected rows say what happened.
        """
        words = [script, *(str(argument) for argument in arguments)]
        command = [sys.executable, str(ROOT / script), *words[1:]]
        launcher = ""
        if ranks > 1:
            launcher, trouble = choose_launcher()
            if trouble:
                print(f"  {trouble}. `reelkin doctor` says what to install", flush=True)
            words = {"horovod": ["horovodrun", "-np"], "torch": ["torchrun", "--nproc-per-node"]}[launcher] + [
                str(ranks),
                *words,
            ]
        shown = shlex.join(words)
        print(f"\n[{len(self.seconds) + 1}/{self.count}] {title}\n  $ {shown}", flush=True)
        started = time.monotonic()
        if launcher:
            code = run_ranks([*launcher_prefix(ranks, launcher), *command], ranks, output=output)
        else:
            code, stopped = run_gently(command, dict(os.environ))
            code = int(ExitCode.STOPPED) if stopped else code
        self.seconds[title] = time.monotonic() - started
        if code == ExitCode.STOPPED:
            raise KeyboardInterrupt
        if code not in (ExitCode.OK, ExitCode.REJECTS):
            raise ReelkinError(f"the stage ended with exit code {code}; to try it alone: {shown}")
        print(f"  done in {self.seconds[title]:.0f} s", flush=True)
