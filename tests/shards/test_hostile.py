"""A hostile corpus through the real command: every input ends as clips or as a reject with a reason, nothing dies,
nothing good is rejected. Judged by what the corpus knows of its files, and by ffmpeg.
"""

from __future__ import annotations

import csv
import io
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow.parquet as pq
import pytest

from reelkin.core.errors import Reason
from reelkin.core.files import sha256_bytes, sha256_file
from reelkin.shards.build import main
from reelkin.shards.reader import ShardSet
from reelkin.shards.sources.inputs import printable
from reelkin.tests.helpers.hostile import Hostile, make_corpus
from reelkin.tests.helpers.hostile_bases import NUM_PICTURES, Bases
from reelkin.tests.helpers.oracle import Opinion, ask_ffmpeg

Check = Literal["first", "full"]


@dataclass(frozen=True)
class Built:
    """One run of the command over the corpus, and what it left behind."""

    check: Check
    code: int
    seconds: float
    output: str
    log: bytes
    folder: Path
    rows: dict[str, dict[str, object]]
    left: list[str]


def run_command(*arguments: str | Path) -> tuple[int, str, bytes]:
    """Run ``shards/build.py`` in this process, which has no other children: its exit code, what it said and logged."""
    said = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2)]
    with redirect_stdout(said[0]), redirect_stderr(said[1]):
        code = main([str(argument) for argument in arguments])
    texts = [stream.buffer.getvalue() for stream in said]  # type: ignore[attr-defined]
    return code, texts[0].decode(), texts[1]


def build(corpus: Path, work: Path, check: Check) -> Built:
    """Build shards with a current folder and a temporary folder of their own."""
    here, temporary, out = work / f"here-{check}", work / f"temporary-{check}", work / f"shards-{check}"
    for folder in (here, temporary):
        folder.mkdir(parents=True)
    settings = ("--workers", "2", "--check", check, "--memory", "3GiB", "--timeout-seconds", "20")
    started, before = time.monotonic(), _children()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.setattr(tempfile, "tempdir", str(temporary))
        patch.setenv("TMPDIR", str(temporary))
        code, output, log = run_command("--videos", corpus, "--output", out, *settings)
    seconds = time.monotonic() - started
    rows = pq.read_table(out / "manifest.parquet").to_pylist()
    by_path = {str(row["path"]): row for row in rows}
    assert len(by_path) == len(rows)
    left = [str(path) for folder in (here, temporary) for path in folder.rglob("*")]
    left += [f"process {pid}" for pid in _children() - before]
    return Built(check, code, seconds, output, log, out, by_path, left)


def _children() -> set[str]:
    """Processes that this one has started and that are still there."""
    tasks = Path("/proc/self/task").iterdir()
    return {pid for task in tasks for pid in (task / "children").read_text().split()}


def state_of(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Mode, size and time of change of everything below a folder."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@dataclass(frozen=True)
class Case:
    """The corpus, built with both checks."""

    folder: Path
    corpus: list[Hostile]
    first: Built
    full: Built
    untouched: bool

    @property
    def inputs(self) -> list[Hostile]:
        """Files of the corpus that count as inputs."""
        return [entry for entry in self.corpus if entry.expectation != "ignored"]

    def row(self, entry: Hostile, check: Check) -> dict[str, object]:
        """The manifest's row of a file."""
        name = printable(entry.path.relative_to(self.folder).as_posix())
        return (self.first if check == "first" else self.full).rows[name]


def make_case(work: Path, seed: int, count: int) -> Case:
    """Make the corpus and build it."""
    folder = work / "corpus"
    corpus = make_corpus(folder, seed, count)
    before = state_of(folder)
    first, full = (build(folder, work, check) for check in ("first", "full"))  # type: ignore[arg-type]
    return Case(folder, corpus, first, full, state_of(folder) == before)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """At least one file of each kind."""
    return make_case(tmp_path_factory.mktemp("small"), seed=5, count=70)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Everything, filled up with random damage."""
    return make_case(tmp_path_factory.mktemp("large"), seed=11, count=600)


# What ffmpeg says is weighed here, not followed.


def beyond_limits(row: dict[str, object]) -> bool:
    """Whole, and more than is accepted."""
    return row["reason"] in ("bad-dimensions", "too-long", "too-large")


def known_to_lack_bytes(entry: Hostile, row: dict[str, object]) -> bool:
    """AVI and ASF say how long they are. What was cut off here held no picture, by luck (padding), or was replaced."""
    return (
        row["reason"] == "truncated"
        and entry.kind in ("cut", "cut late", "lost block")
        and (entry.path.suffix in (".wmv", ".avi"))
    )


def known_by_its_name_only(entry: Hostile, row: dict[str, object]) -> bool:
    """With other bytes in front ffmpeg goes by the extension; here what a file is called decides nothing."""
    return row["reason"] == "not-a-video" and entry.kind == "bytes before the beginning"


def begins_anew(entry: Hostile, row: dict[str, object], opinion: Opinion) -> bool:
    """Accepted from its first keyframe on, as a recording that starts in the middle, or by an elder decoder."""
    return int(row["num_frames"]) > 0 and opinion.pictures == 0  # type: ignore[call-overload]


def ask_all(entries: list[Hostile]) -> list[Opinion]:
    """ffmpeg's opinions; two at a time."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda entry: ask_ffmpeg(entry.path), entries))


def regular(case: Case) -> list[Hostile]:
    """Inputs that ffmpeg may be given; a pipe or a device would keep it for ever."""
    return [entry for entry in case.inputs if entry.path.is_file()]


def check_account(case: Case) -> None:
    for built in (case.first, case.full):
        assert built.code == 0, built.log.decode("utf-8", "replace")
        expected = {printable(entry.path.relative_to(case.folder).as_posix()) for entry in case.inputs}
        assert set(built.rows) == expected
        reasons = {str(reason) for reason in Reason}
        for name, row in built.rows.items():
            if row["status"] == "ok":
                assert row["reason"] == "" and row["num_clips"] == 1 and row["num_frames"] >= 1, row  # type: ignore[operator]
            else:
                assert row["status"] == "rejected" and row["reason"] in reasons and row["num_clips"] == 0, row
                assert row["detail"] and str(row["detail"]).isprintable(), row
                assert row["reason"] not in ("decoder-died", "timeout"), (name, row)  # nothing here is that bad
        ok = [row for row in built.rows.values() if row["status"] == "ok"]
        assert f"{len(ok)} of {len(built.rows)} videos" in built.output


def check_clips(case: Case) -> None:
    """What was packed are the files' own bytes."""
    by_id = {str(row["video_id"]): row for row in case.first.rows.values() if row["status"] == "ok"}
    rows = [(case.row(entry, "first"), entry.path) for entry in case.inputs]
    hashes = {str(row["video_id"]): sha256_file(path) for row, path in rows if row["status"] == "ok"}
    shards = ShardSet.open(case.first.folder)
    found = [clip for name in shards.shard_names for clip in shards.read_clips(name)]
    assert Counter(clip.video_id for clip in found) == Counter(list(by_id))
    for clip in found:
        assert sha256_bytes(clip.data) == hashes[clip.video_id] == by_id[clip.video_id]["sha256"]
        assert all(line.isprintable() for line in str(clip.meta).split("\n"))


def check_nothing_left(case: Case) -> None:
    assert case.untouched
    for built in (case.first, case.full):
        assert built.left == []
        assert built.seconds < 240
        # no file, pipe or folder beside what belongs to a set of shards
        assert not [path for path in built.folder.rglob("*") if path.name.startswith(("core", ".", "harm"))]


def check_expectations(case: Case) -> None:
    for check in ("first", "full"):
        for entry in case.inputs:
            status = case.row(entry, check)["status"]  # type: ignore[arg-type]
            if entry.expectation != "either":
                expected = "ok" if entry.expectation == "ok" else "rejected"
                assert status == expected, (entry, case.row(entry, check))  # type: ignore[arg-type]


def check_nothing_good_is_rejected(case: Case) -> None:
    entries = [entry for entry in regular(case) if case.row(entry, "full")["reason"] != "bad-id"]
    opinions = ask_all(entries)
    whole = 0
    for entry, opinion in zip(entries, opinions, strict=True):
        if opinion.clean and opinion.pictures and entry.pictures in (None, opinion.pictures):
            whole += 1
            for row in (case.row(entry, "first"), case.row(entry, "full")):
                good = row["status"] == "ok" or beyond_limits(row)
                good = good or known_to_lack_bytes(entry, row) or known_by_its_name_only(entry, row)
                assert good, (entry, row, opinion)
        elif not opinion.clean:
            row = case.row(entry, "full")
            assert row["status"] == "rejected" or begins_anew(entry, row, opinion), (entry, row, opinion)
    assert whole > len(entries) / 4


def check_log(case: Case) -> None:
    """No name commands the terminal, and none passes for a line of ours."""
    for built in (case.first, case.full):
        for line in built.log.decode("utf-8").removesuffix("\n").split("\n"):
            assert line.isprintable(), repr(line)
            assert re.match(r"(\d\d:\d\d:\d\d [IWE] |building shards|    )", line), repr(line)
            assert "I all is well" not in line or "rejected" in line


CHECKS: tuple[Callable[[Case], None], ...] = (
    check_account,
    check_clips,
    check_nothing_left,
    check_expectations,
    check_nothing_good_is_rejected,
    check_log,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_some_hostile_files_of_each_kind(small: Case, check: Callable[[Case], None]) -> None:
    check(small)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_whole_hostile_corpus(large: Case, check: Callable[[Case], None]) -> None:
    assert len(large.corpus) >= 300 and len({entry.kind for entry in large.corpus}) >= 40
    check(large)


def test_a_corpus_depends_on_its_seed_alone(tmp_path: Path) -> None:
    made = [make_corpus(tmp_path / name, seed, 14) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    content = [
        [(entry.path.relative_to(tmp_path / name), content_of(entry.path)) for entry in corpus]
        for name, corpus in zip("abc", made, strict=True)
    ]
    assert content[0] == content[1] != content[2]


def content_of(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else b""


def test_a_list_may_name_anything(tmp_path: Path) -> None:
    """Paths of a list are strangers: folders, devices, nothing, bytes that are no text, ids that are none."""
    (tmp_path / "folder.mp4").mkdir()
    good = tmp_path / os.fsdecode(b"caf\xe9 \n\x1b[31m.mp4")
    good.write_bytes(Bases(tmp_path / "bases").data("front.mp4"))
    rows = [
        ("good", good.name, "ok", ""),
        ("folder", "folder.mp4", "rejected", "no-frames"),  # a folder is taken for one of images
        ("device", "/dev/zero", "rejected", "unreadable"),
        ("nothing", "nothing.mp4", "rejected", "missing"),
        ("long", "n" * 300, "rejected", "unreadable"),
        ("deep", "d/" * 3000 + "x.mp4", "rejected", "unreadable"),
        ("no path", "", "rejected", "missing"),
        ("escape \x1b[31m", good.name, "rejected", "bad-id"),
        ("forged\n12:00:00 I all is well", good.name, "rejected", "bad-id"),
        ("good", "folder.mp4", "rejected", "duplicate-id"),
    ]
    listed = tmp_path / "list.csv"
    with open(listed, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([("video_id", "path"), *(row[:2] for row in rows)])
    out = tmp_path / "shards"
    code, _, log = run_command("--videos", listed, "--output", out, "--max-reject-share", "1")
    assert code == 0, log
    assert all(line.isprintable() for line in log.decode().split("\n"))
    table = pq.read_table(out / "manifest.parquet").to_pylist()
    assert all(str(value).isprintable() for row in table for value in row.values())
    found = Counter((row["video_id"], row["status"], row["reason"]) for row in table)
    assert found == Counter((printable(row[0]), row[2], row[3]) for row in rows)
    assert table[[row["video_id"] for row in table].index("good")]["num_frames"] == NUM_PICTURES
