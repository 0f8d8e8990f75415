"""CSV files: written whole, read strictly."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from .errors import ReelkinError
from .files import publish_text


def csv_text(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A heading and rows as CSV, lines ended by a line feed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def publish_csv(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file that appears when it is whole. Raises ReelkinError when it cannot be written."""
    publish_text(path, csv_text(columns, rows))


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """All rows of `csv_rows`. Raises ReelkinError also when there is none."""
    rows = [row for _, row in csv_rows(path)]
    if not rows:
        raise ReelkinError(f"{path} holds no row below its heading")
    return rows


def csv_rows(path: str | Path, columns: Sequence[Sequence[str]] = ()) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a CSV with a heading, one in memory at a time; bytes that are not UTF-8 survive as surrogates.

    Args:
        path: the file.
        columns: the heading must have the columns of one of these; none: any heading will do.

    Yields:
        The line that a row ends in, from 1, and its stripped strings by column.

    Raises:
        ReelkinError: the file cannot be read, has another heading, or a row of another length (with its line).
    """
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            heading = [name.strip() for name in reader.fieldnames or []]
            if columns and not any(set(names) <= set(heading) for names in columns):
                wanted = " or ".join(",".join(names) for names in columns)
                raise ReelkinError(f"{path} needs a header with the columns {wanted}; it has {','.join(heading)!r}")
            for row in reader:
                if None in row or None in row.values():
                    raise ReelkinError(
                        f"{path}, line {reader.line_num}: {'too many' if None in row else 'too few'} fields for the "
                        f"heading {','.join(heading)}; quote ids that hold commas"
                    )
                yield reader.line_num, {key.strip(): value.strip() for key, value in row.items()}
    except OSError as error:
        raise ReelkinError(f"cannot read {path}: {error.strerror}") from error
    except csv.Error as error:
        raise ReelkinError(f"{path} is not a CSV file: {error}") from error
