"""Similarity files: read as they are, streamed, and refused with the place where anything in them is doubtful."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reelkin.core.errors import UsageError
from reelkin.core.files import sha256_file
from reelkin.evaluate.published.similarity_file import FileScores, read_similarities


def write(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "similarities.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def as_dict(scores: FileScores) -> dict[str, dict[str, float]]:
    """All pairs that have a score."""
    rows = zip(scores.queries, scores.rows(scores.queries), strict=True)
    return {
        query: {video: float(value) for video, value in zip(scores.database, row, strict=True) if not np.isnan(value)}
        for query, row in rows
    }


def test_what_json_dump_wrote_is_read_back_with_pairs_missing_and_in_any_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    videos = [f"v{number}" for number in range(40)] + ['a "quoted" {brace}', "中文", "\U0001f600"]
    content = {}
    for query in range(12):
        chosen = [videos[place] for place in rng.permutation(len(videos))[: int(rng.integers(1, len(videos) + 1))]]
        content[f"q{query}"] = {video: float(np.float32(rng.normal())) for video in chosen}
    path = write(tmp_path, content)
    scores = read_similarities(path)
    assert as_dict(scores) == content
    assert list(scores.queries) == list(content)
    assert sorted(scores.database) == sorted({video for row in content.values() for video in row})
    assert scores.facts == {
        "similarities": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)
    }  # fmt: skip
    assert all(row.dtype == np.float32 for row in scores.rows(scores.queries))


def test_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    scores = read_similarities(write(tmp_path, {"a": {"x": 1, "y": 2}, "b": {"y": 0.5, "z": -1e-3}}))
    found = list(scores.rows(["b", "a", "b"]))
    np.testing.assert_array_equal(found[0], np.array([np.nan, 0.5, -1e-3]))
    np.testing.assert_array_equal(found[1], np.array([1, 2, np.nan], dtype=np.float32))
    np.testing.assert_array_equal(found[2], found[0])
    with pytest.raises(KeyError):
        next(scores.rows(["c"]))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list at its top; expected {query: {video: similarity}}"),
        ("3", "holds the number '3' at its top"),
        ('"text"', "holds the string 'text' at its top"),
        ({}, "holds no query"),
        ({"q": 0.5}, "holds the number '0.5' for the query 'q'"),
        ({"q": ["a", "b"]}, "holds a list for the query 'q'"),
        ({"q": {}}, "has no score for the query 'q'"),
        ({"p": {"v": 1}, "q": {"v": 1, "w": "0.7"}}, "holds the string '0.7' as the score of query 'q', video 'w'"),
        ({"q": {"v": None}}, "holds null as the score of query 'q', video 'v'"),
        ({"q": {"v": True}}, "holds the boolean 'True' as the score of query 'q', video 'v'"),
        ({"q": {"v": [0.1]}}, "holds a list as the score of query 'q', video 'v'"),
        ({"q": {"v": {"w": 1}}}, "holds an object as the score of query 'q', video 'v'"),
        ('{"p": {"v": 1}, "q": {"v": 0.1, "w": NaN}}', "no valid JSON after query 'q'.*NaN or Infinity"),
        ('{"q": {"v": -Infinity}}', "no valid JSON after query 'q'.*NaN or Infinity"),
        ('{"q": {"v": 1e999}}', "no valid JSON after query 'q' .parse error: numeric .floating point. overflow"),
        ('{"q": {"v": %s}}' % ("9" * 400), "no valid JSON after query 'q' .parse error: integer overflow"),
        ('{"q": {"v": 1, "w": 2, "v": 3}}', "gives query 'q' more than one score for 1 videos: 'v'"),
        ('{"q": {"v": 1, "w": 2, "v": 1}}', "gives query 'q' more than one score for 1 videos: 'v'"),
        ('{"q": {"v": 1}, "p": {"v": 1}, "q": {"w": 1}}', "names the query 'q' twice"),
        ('{"q": {"v": 1}} {"p": {"v": 1}}', "no valid JSON after query 'q'"),
        ("", "no valid JSON after its beginning"),
        ("not json", "no valid JSON after its beginning"),
    ],
)
def test_doubtful_content_is_refused_with_its_place(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said) as error:
        read_similarities(write(tmp_path, content))
    assert "similarities.json" in str(error.value)


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    text = json.dumps({"q1": {"a": 0.25, "b": -1.5}, "q2": {"b": 3.0}})
    for length in range(len(text)):
        with pytest.raises(UsageError, match="no valid JSON|holds no query"):
            read_similarities(write(tmp_path, text[:length]))


def test_scores_are_kept_as_they_are(tmp_path: Path) -> None:
    content = {"single": {"v": 0.25, "w": float(np.float32(0.1))}, "double": {"v": 0.1, "w": 1e39, "x": 1e-300}}
    scores = read_similarities(write(tmp_path, content))
    assert as_dict(scores) == content
    assert [row.dtype for row in scores.rows(["single", "double"])] == [np.float32, np.float64]


def test_the_order_in_which_a_query_lists_its_videos_is_kept(tmp_path: Path) -> None:
    scores = read_similarities(write(tmp_path, {"p": {"a": 1, "b": 2, "c": 3}, "q": {"c": 1, "a": 1}}))
    assert scores.listed("p") is None and list(scores.database) == ["a", "b", "c"]
    listed = scores.listed("q")
    assert listed is not None and listed.tolist() == [1, 2, 0]


def test_a_mark_of_utf8_at_the_beginning_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "similarities.json"
    path.write_text('{"q": {"v": 0.5}}', encoding="utf-8-sig")
    scores = read_similarities(path)
    assert as_dict(scores) == {"q": {"v": 0.5}} and scores.facts["sha256"] == sha256_file(path)


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        (gzip.compress, "is packed by gzip; unpack it first"),
        (bz2.compress, "is packed by bzip2; unpack it first"),
        (lzma.compress, "is packed by xz; unpack it first"),
        (lambda data: data.decode().encode("utf-16"), "is UTF-16 or UTF-32; write it as UTF-8"),
        (lambda data: b"PK\x03\x04" + data, "is a zip archive; if it is an .npz file, name it so"),
        (lambda data: data.replace(b"v", b"\xed\xa0\x80"), "is no valid UTF-8 after query 'q'"),
    ],
)
def test_another_encoding_is_refused_by_its_name(tmp_path: Path, packed: Callable[[bytes], bytes], said: str) -> None:
    path = tmp_path / "similarities.json"
    path.write_bytes(packed(b'{"q": {"v": 0.5}}'))
    with pytest.raises(UsageError, match=said):
        read_similarities(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "similarities.json"
    path.write_bytes(b'{"q": {"\xff\xfe": 1}}')
    with pytest.raises(UsageError, match="no valid JSON after query 'q'"):
        read_similarities(path)
    path.write_bytes(np.random.default_rng(0).bytes(1000))
    with pytest.raises(UsageError, match="no valid JSON"):
        read_similarities(path)
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(UsageError, match="holds a list at its top"):
        read_similarities(path)


def test_a_file_that_is_not_there_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_similarities(tmp_path / "none.json")
    with pytest.raises(UsageError, match="is no file"):
        read_similarities(tmp_path)


def test_more_than_the_bound_is_refused_with_the_size(tmp_path: Path) -> None:
    path = write(tmp_path, {f"q{q}": {f"v{v}": 0.5 for v in range(1000)} for q in range(5)})
    needed = 5 * 4 * 1000 + 200 * 1000
    assert len(read_similarities(path, needed).database) == 1000
    with pytest.raises(UsageError, match=rf"\({path.stat().st_size:,} bytes\).*up to query 'q4'.*--max-memory-gb.*npz"):
        read_similarities(path, needed - 1)


MEMORY = """
import sys
from reelkin.evaluate.published.similarity_file import read_similarities
def status(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
before = status("VmRSS")
scores = read_similarities(sys.argv[1])
assert len(scores.queries) == 80 and len(scores.database) == 10_000
print(status("VmHWM") - before)
"""


def test_a_large_file_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    row = "{" + ", ".join(f'"{number:011d}": 0.{number:016d}' for number in range(10_000)) + "}"
    with open(path, "w", encoding="utf-8") as file:
        file.write("{" + ", ".join(f'"query {query}": {row}' for query in range(80)) + "}")
    size = path.stat().st_size / 2**20
    assert size > 25
    done = subprocess.run([sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20  # the values take 6 MB, the ids 2, a piece of the file 1


def test_a_matrix_in_an_npz_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "similarities.npz"
    matrix = np.random.default_rng(0).normal(size=(2, 3))
    for dtype in (np.float16, np.float32, np.float64):
        np.savez(path, queries=["a", "b"], database=["x", "y", "中文"], similarities=matrix.astype(dtype))
        scores = read_similarities(path)
        assert (list(scores.queries), list(scores.database)) == (["a", "b"], ["x", "y", "中文"])
        np.testing.assert_array_equal(np.stack(list(scores.rows(["b", "a"]))), matrix.astype(dtype)[::-1])
        assert {row.dtype for row in scores.rows(["a"])} == {np.promote_types(dtype, np.float32)}
    np.savez_compressed(path, queries=["a", "b"], database=["x", "y", "z"], similarities=matrix)
    assert len(read_similarities(path).database) == 3


GOOD: dict[str, Any] = {"queries": ["a", "b"], "database": ["x", "y", "z"], "similarities": np.ones((2, 3))}
HOLED = np.ones((2, 3))
HOLED[1, 2] = np.nan


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"similarities": np.ones((3, 2))}, r"similarities float64 \[3, 2\]"),
        ({"similarities": np.ones(6)}, r"similarities float64 \[6\]"),
        ({"similarities": np.ones((2, 3), dtype=np.int64)}, "similarities int64"),
        ({"queries": "a", "database": "x", "similarities": 1.0}, r"queries <U1 \[\], database <U1 \[\]"),
        ({"queries": [["a"]], "similarities": np.ones((1, 1, 3))}, r"queries <U1 \[1, 1\]"),
        ({"queries": np.arange(2)}, "ids of the types int64"),
        ({"queries": np.array(["a", "b"], dtype=object)}, "ids of the types object"),
        ({"queries": ["a", "a"]}, "names 1 ids of queries more than once: 'a'"),
        ({"database": ["x", "y", "x"]}, "names 1 ids of database more than once: 'x'"),
        ({"similarities": HOLED}, "1 scores of query 'b' that are no finite numbers: of 'z'"),
        ({"similarities": np.full((2, 3), -np.inf)}, "3 scores of query 'a'"),
        ({"queries": [], "similarities": np.ones((0, 3))}, "ids of the types float64|holds no query"),
    ],
)
def test_a_doubtful_npz_file_is_refused(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = tmp_path / "similarities.npz"
    np.savez(path, **(GOOD | change))
    with pytest.raises(UsageError, match=said):
        read_similarities(path)


def lacks_an_array(path: Path) -> None:
    np.savez(path, queries=["a"], similarities=np.ones((1, 1)))


def is_cut(path: Path) -> None:
    np.savez(path, **GOOD)
    path.write_bytes(path.read_bytes()[:-30])


def is_damaged(path: Path) -> None:
    np.savez_compressed(path, **GOOD)
    data = bytearray(path.read_bytes())
    data[70:90] = bytes(20)
    path.write_bytes(data)


def is_no_zip(path: Path) -> None:
    path.write_text("{}")


def holds_other_members(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("similarities.npy", "no array")


@pytest.mark.parametrize("break_", [lacks_an_array, is_cut, is_damaged, is_no_zip, holds_other_members])
def test_a_broken_npz_file_is_refused(tmp_path: Path, break_: Callable[[Path], None]) -> None:
    path = tmp_path / "similarities.npz"
    break_(path)
    with pytest.raises(UsageError, match="lacks database|cut off or damaged"):
        read_similarities(path)


def test_an_npz_file_that_unpacks_beyond_the_bound_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "similarities.npz"
    queries, database = [f"q{n}" for n in range(400)], [f"v{n}" for n in range(5000)]
    np.savez_compressed(path, queries=queries, database=database, similarities=np.zeros((400, 5000), np.float32))
    assert path.stat().st_size < 100_000
    with pytest.raises(UsageError, match="needs 0.017 GB, and --max-memory-gb is 0.01"):
        read_similarities(path, 10**7)
