#!/usr/bin/env python3
"""Train a video model on a feature store: features in, model out."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.train.session import recipe_named, run


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and train; the exit code says how it ended."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    recipe = recipe_named(arguments)
    return run(recipe, parse(recipe.config, arguments, prog="train/run.py", example=recipe.example))


if __name__ == "__main__":
    raise SystemExit(main())
