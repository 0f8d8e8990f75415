#!/usr/bin/env python3
"""Turn published weights into a model folder."""

from __future__ import annotations

from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.train.weights_import import ImportConfig, import_weights

EXAMPLE = "train/import_checkpoint.py --input model.pth --output model"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and convert; the exit code says how it ended."""
    return import_weights(parse(ImportConfig, argv, prog="train/import_checkpoint.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
