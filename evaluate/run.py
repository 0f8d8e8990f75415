#!/usr/bin/env python3
"""Evaluate a model on a ground truth, or with --dataset on a published benchmark: figures with intervals beside the
trivial solutions, and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.evaluate.session import mode_of


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and evaluate; the exit code says how it ended."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    mode = mode_of(arguments)
    return mode.run(parse(mode.config, arguments, prog="evaluate/run.py", example=mode.example))


if __name__ == "__main__":
    sys.exit(main())
