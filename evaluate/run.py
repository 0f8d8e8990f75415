#!/usr/bin/env python3
"""Evaluate a model on a ground truth: mean average precision with intervals beside the trivial solutions, and a
report."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, launched_rank, parse
from reelkin.core.errors import ExitCode
from reelkin.core.logs import setup_logging
from reelkin.evaluate.config import EvaluateConfig, dry_run_text, run
from reelkin.evaluate.results import text_table

EXAMPLE = "evaluate/run.py --ground-truth edits.csv --features store --model run/model --shards shards --output results"


@command
def main(argv: Sequence[str] | None = None) -> int:
    config = parse(EvaluateConfig, argv, prog="evaluate/run.py", example=EXAMPLE)
    setup_logging(launched_rank())
    if launched_rank() != 0:  # one process computes; the others of a launcher have nothing to add
        return ExitCode.OK
    if config.dry_run:
        print(dry_run_text(config))
        return ExitCode.OK
    results = run(config)
    print(text_table(results))
    print(f"written: {config.output}/report.html, results.json, queries.csv")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
