#!/usr/bin/env python3
"""Index a feature store for search, or find the videos of an index that show what given videos show.

search/run.py index --features STORE --model MODEL --output INDEX
search/run.py query --index INDEX --videos PATH ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reelkin.core.config import command, launched_rank, parse
from reelkin.core.errors import ExitCode
from reelkin.core.logs import setup_logging
from reelkin.search.commands import IndexConfig, QueryConfig, run_index, run_query

INDEX_EXAMPLE = "search/run.py index --features store --model run/model --output index"
QUERY_EXAMPLE = "search/run.py query --index index --videos clip.mp4"


@command
def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    setup_logging(launched_rank())
    if launched_rank() != 0:  # one process computes; the others of a launcher have nothing to add
        return ExitCode.OK
    if words[:1] == ["index"]:
        return run_index(parse(IndexConfig, words[1:], prog="search/run.py index", example=INDEX_EXAMPLE))
    if words[:1] == ["query"]:
        return run_query(parse(QueryConfig, words[1:], prog="search/run.py query", example=QUERY_EXAMPLE))
    asked = words[:1] in (["-h"], ["--help"])
    print(
        f"say index or query first (--help after it lists the flags):\n    {INDEX_EXAMPLE}\n    {QUERY_EXAMPLE}",
        file=sys.stdout if asked else sys.stderr,
    )
    return ExitCode.OK if asked else ExitCode.USAGE


if __name__ == "__main__":
    sys.exit(main())
