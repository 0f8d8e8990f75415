"""CSV files: what is written is what the csv module reads; odd rows are named by their line."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from reelkin.core.errors import ReelkinError
from reelkin.core.tables import csv_rows, csv_text, publish_csv, read_csv

ODD = ["a,b", 'a "quoted" one', "two\nlines", " spaces ", "ünï", "=1+1", ""]


def test_odd_cells_come_back_as_they_were(tmp_path: Path) -> None:
    publish_csv(tmp_path / "odd.csv", ["name", "number"], ([cell, number] for number, cell in enumerate(ODD)))
    with open(tmp_path / "odd.csv", newline="", encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["name", "number"], *([cell, str(n)] for n, cell in enumerate(ODD))]
    found = read_csv(tmp_path / "odd.csv")
    assert [row["name"] for row in found] == [cell.strip() for cell in ODD]


def test_lines_end_with_a_line_feed_alone() -> None:
    assert csv_text(["a", "b"], [[1, None]]) == "a,b\n1,\n"


def test_the_line_of_a_row_counts_the_lines_inside_quotes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('\ufeffid , group\n"a\nb",1\nc,2\n', encoding="utf-8")
    assert list(csv_rows(path)) == [(3, {"id": "a\nb", "group": "1"}), (4, {"id": "c", "group": "2"})]


def test_bytes_that_are_not_utf_8_survive(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"id,group\n\xff\xfe,1\n")
    assert read_csv(path)[0]["id"].encode("utf-8", errors="surrogateescape") == b"\xff\xfe"


@pytest.mark.parametrize(
    "content, message",
    [
        ("a,b\n1,2,3\n", "line 2: too many fields for the heading a,b"),
        ("a,b\n1,2\n1\n", "line 3: too few fields"),
        ("a,b\n", "holds no row below its heading"),
        ("", "holds no row below its heading"),
        ("a,b\n" + "x" * 200_000 + ",1\n", "is not a CSV file: field larger than field limit"),
    ],
)
def test_what_cannot_be_read_is_named_by_its_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(ReelkinError, match=message) as caught:
        read_csv(path)
    assert str(path) in str(caught.value)


def test_a_heading_without_the_columns_is_refused_before_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1\n")
    with pytest.raises(ReelkinError, match="needs a header with the columns x,y or a,c; it has 'a,b'"):
        next(csv_rows(path, (("x", "y"), ("a", "c"))))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReelkinError, match="nowhere.csv: No such file"):
        read_csv(tmp_path / "nowhere.csv")
