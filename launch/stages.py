"""Runs stages one after the other as commands of their own, shown as a user would type them."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import reelkin
from reelkin.core.errors import ExitCode, ReelkinError

ROOT = Path(reelkin.__file__).resolve().parent


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

    def run(self, title: str, script: str, *arguments: str | Path, launcher: list[str] | None = None) -> None:
        """Run ``script`` (a path inside the package, such as "shards/build.py") and wait for it.

        Args:
            title: what the stage does, for a person.
            arguments: its flags.
            launcher: what stands before the script, such as ["horovodrun", "-np", "2"]; the stage's own interpreter
                is used in any case.

        Raises:
            ReelkinError: the stage failed; the message holds the command line. More rejects than the stage's budget
                is not a failure here: the rejected rows say what happened.
        """
        words = [str(argument) for argument in arguments]
        shown = shlex.join([*(Path(word).name if word == launcher[0] else word for word in launcher or []), script, *words])
        print(f"\n[{len(self.seconds) + 1}/{self.count}] {title}\n  $ {shown}", flush=True)
        started = time.monotonic()
        finished = subprocess.run([*(launcher or []), sys.executable, str(ROOT / script), *words], check=False)
        self.seconds[title] = time.monotonic() - started
        if finished.returncode not in (ExitCode.OK, ExitCode.REJECTS):
            raise ReelkinError(f"the stage ended with exit code {finished.returncode}; to try it alone: {shown}")
        print(f"  done in {self.seconds[title]:.0f} s", flush=True)
