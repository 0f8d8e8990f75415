"""Scores beside results: they come back as they were, and a file that is not the one that was written is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from reelkin.core.errors import ReelkinError
from reelkin.core.files import sha256_file
from reelkin.evaluate.published.annotation import Annotation
from reelkin.evaluate.published.saved_scores import SavedFile, read_scores, write_scores
from reelkin.evaluate.published.scoring import evaluate_scores
from reelkin.evaluate.published.similarity_file import read_similarities

from . import cases

ROOM = 10**9


@pytest.mark.parametrize("dataset", ["FIVR-200K", "VCDB", "CC_WEB_VIDEO", "EVVE", "SVD", "PAIRS"])
@pytest.mark.parametrize("protocol", ["corrected", "legacy"])
def test_what_is_read_again_gives_the_same_figures_to_the_last_bit(dataset: str, protocol: str, tmp_path: Path) -> None:
    types = set()
    for seed in range(40):
        rng = np.random.default_rng([seed, 5])
        annotation = cases.annotation(dataset, rng)
        table = cases.scores(annotation, rng)
        if annotation.database is not None and not set(table.database) & set(annotation.database):
            continue
        saved = write_scores(tmp_path / "s.safetensors", annotation, table, ROOM, ordered=True)
        assert saved is not None
        again = read_scores(tmp_path, saved)
        outcomes = [evaluate_scores(annotation, scores, protocol=protocol) for scores in (table, again)]
        assert outcomes[0].figures == outcomes[1].figures
        assert outcomes[0].as_json()["query_table"] == outcomes[1].as_json()["query_table"]
        assert not {"stranger", "unknown query"} & {*again.queries, *again.database} or annotation.database is None
        (row,) = again.rows(again.queries[:1])
        types.add(row.dtype)
    assert types == {np.dtype(np.float32), np.dtype(np.float64)}


def test_a_file_names_ids_as_the_annotation_does_and_leaves_out_what_that_does_not_know(tmp_path: Path) -> None:
    annotation = Annotation(
        "PAIRS", "", ("q1", "q2"), ("a", "b", "é\ud800"), {"q1": {"positive": ("a",)}}, normal_id=str.lower
    )
    rows = np.array([[1, 2, 3, 4, 5], [6, 7, 8, 9, np.nan]], dtype=np.float32)
    table = cases.Table(["Q2", "q1"], ["B", "x", "É\ud800", "a", "A"], rows)
    saved = write_scores(tmp_path / "s.safetensors", annotation, table, ROOM, ordered=False)
    assert saved == SavedFile(
        "s.safetensors",
        (tmp_path / "s.safetensors").stat().st_size,
        sha256_file(tmp_path / "s.safetensors"),
    )
    again = read_scores(tmp_path, saved)
    assert (again.queries, again.database) == (["q1", "q2"], ["b", "é\ud800", "a"])
    np.testing.assert_array_equal(list(again.rows(["q2", "q1"])), [[1, 3, 4], [6, 8, 9]])
    # any reader of safetensors can use it
    held = safetensors.numpy.load_file(tmp_path / "s.safetensors")
    np.testing.assert_array_equal(held["scores"], [[6, 8, 9], [1, 3, 4]])
    assert json.loads(held["queries"].tobytes()) == ["q1", "q2"] and "listed" not in held


def test_orders_of_single_queries_are_kept_where_ties_need_them(tmp_path: Path) -> None:
    annotation = Annotation("PAIRS", "", ("q", "r"), None, {"q": {"positive": ("a", "c")}, "r": {"positive": ("b",)}})
    (tmp_path / "s.json").write_text('{"q": {"a": 1, "b": 1, "c": 1}, "r": {"c": 1, "b": 1, "a": 1}}')
    given = read_similarities(tmp_path / "s.json")
    figures = []
    for ordered in (True, False):
        saved = write_scores(tmp_path / "s.safetensors", annotation, given, ROOM, ordered=ordered)
        assert saved is not None
        again = read_scores(tmp_path, saved)
        figures.append(evaluate_scores(annotation, again, protocol="legacy").figures["mAP"])
    # reversed: c b a with a and c right, a b c with b right; in the order of columns c b a
    assert figures[0] == evaluate_scores(annotation, given, protocol="legacy").figures["mAP"]
    assert figures[0] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2) / 2)


def small() -> tuple[Annotation, cases.Table]:
    annotation = Annotation("PAIRS", "", ("q",), None, {"q": {"positive": ("a",)}})
    return annotation, cases.Table(["q"], ["a", "b"], np.array([[1, 2]], dtype=np.float32))


def test_what_is_too_large_is_not_written_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    assert write_scores(tmp_path / "s", *small(), 20, ordered=False) is None
    assert "--scores-gb is 2e-08" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    assert write_scores(tmp_path / "s", *small(), ROOM, ordered=False) is None
    assert "the disk has not that much room" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_full_disk_costs_the_scores_and_leaves_no_part_of_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(cases.Table):
        calls = 0

        def rows(self, queries: Sequence[str]) -> Iterator[np.ndarray]:
            Failing.calls += 1
            if Failing.calls > 1:
                raise OSError(28, "No space left on device")
            return super().rows(queries)

    annotation, table = small()
    failing = Failing(table.queries, table.database, table.scores_QV)
    assert write_scores(tmp_path / "s", annotation, failing, ROOM, ordered=False) is None
    assert "cannot write" in caplog.text and "compared by query only" in caplog.text
    assert not list(tmp_path.iterdir())


def cut(path: Path, saved: SavedFile) -> SavedFile:
    path.write_bytes(path.read_bytes()[:-3])
    return saved


def of_another_run(path: Path, saved: SavedFile) -> SavedFile:
    annotation, table = small()
    table.scores_QV = table.scores_QV + 1
    write_scores(path, annotation, table, ROOM, ordered=False)
    return saved


def gone(path: Path, saved: SavedFile) -> SavedFile:
    path.unlink()
    return saved


def rewritten(tensors: dict[str, np.ndarray], about: dict[str, Any] | None = None) -> Any:
    """Another content with a hash that fits."""

    def write(path: Path, saved: SavedFile) -> SavedFile:
        about_it = {"format": "reelkin-scores", "version": 1} if about is None else about
        content = safetensors.numpy.load_file(path) | tensors
        safetensors.numpy.save_file(content, path, {"reelkin": json.dumps(about_it)})
        return replace(saved, sha256=sha256_file(path), bytes=path.stat().st_size)

    return write


def text(value: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (cut, "is cut off: .* bytes; evaluate again"),
        (of_another_run, "holds the scores of another run: its sha256 is .* name .*; evaluate again"),
        (gone, "cannot read .*No such file"),
        (rewritten({"queries": text(["q", "r"])}), r"scores is F32 \[1, 2\] for 2 queries, 2 videos"),
        (rewritten({"scores": np.zeros((1, 2), np.int32)}), r"scores is I32"),
        (rewritten({"listed": np.zeros((1, 3), np.int32)}), r"listed is I32 \[1, 3\]"),
        (rewritten({"database": text(["a", "a"])}), "an id stands there twice"),
        (rewritten({"database": text({"a": 1})}), "no list of text"),
        (rewritten({"database": np.frombuffer(b"[1,", np.uint8)}), "is no file of scores"),
        (rewritten({}, {"format": "reelkin-scores", "version": 9}), "version': 9.* this program reads .* version 1"),
        (rewritten({}, {}), "is no file of scores"),
    ],
)
def test_another_file_than_was_written_is_refused(change: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    saved = write_scores(path, *small(), ROOM, ordered=False)
    assert saved is not None
    saved = change(path, saved)
    with pytest.raises(ReelkinError, match=said):
        read_scores(tmp_path, saved)


def test_bytes_that_are_no_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(ReelkinError, match="is no file of scores"):
        read_scores(tmp_path, SavedFile("s", 100, sha256_file(path)))


def test_a_name_outside_the_folder_is_refused() -> None:
    for name in ("../s", "/etc/passwd", "a/b", "", ".."):
        with pytest.raises(ValueError, match="no name of a file in the same folder"):
            SavedFile.from_json({"name": name, "bytes": 1, "sha256": "0"})
