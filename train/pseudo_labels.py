#!/usr/bin/env python3
"""Group the videos of a feature store by similarity alone: labels to train with where there are none."""

from __future__ import annotations

from collections.abc import Sequence

from reelkin.core.config import command, parse
from reelkin.train.pseudo_labelling import PseudoLabelConfig, make_pseudo_labels

EXAMPLE = "train/pseudo_labels.py --features store --output clusters.csv"


@command
def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags and write the clusters; the exit code says how it ended."""
    return make_pseudo_labels(parse(PseudoLabelConfig, argv, prog="train/pseudo_labels.py", example=EXAMPLE))


if __name__ == "__main__":
    raise SystemExit(main())
