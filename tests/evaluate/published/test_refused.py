"""evaluate/run.py --dataset: what is refused, in one line and before any work, and that nothing is lost by it."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelkin.core.errors import ExitCode, UsageError
from reelkin.evaluate.published.config import PublishedConfig
from reelkin.evaluate.run import main
from reelkin.extract.store import write_store
from tests.evaluate.published.conftest import ENCODER, PCA, World, features
from tests.helpers.runs import run_here


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("flag", ["seed", "bootstrap", "limit", "examples"])
def test_numbers_below_zero_are_refused(flag: str) -> None:
    with pytest.raises(UsageError, match=f"--{flag} is -1"):
        PublishedConfig(dataset="PAIRS", similarities=Path("s.json"), **{flag: -1})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(("device", "message"), [("cuda", "or choose device 'cpu'"), ("meta", "--device")])
def test_a_device_that_is_not_there_is_refused(world: World, device: str, message: str) -> None:
    ran = world.run("--device", device)
    assert ran.code == ExitCode.USAGE and message in ran.log


class Hostile:
    """Pickled, it makes a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch ran-hostile-code",)


def broken_pickle(folder: Path) -> Path:
    (folder / "cut.pickle").write_bytes(pickle.dumps({"a": [1, 2, 3]})[:-5])
    return folder / "cut.pickle"


def hostile_pickle(folder: Path) -> Path:
    (folder / "hostile.pickle").write_bytes(pickle.dumps({"5k": {}, "200k": {}, "annotation": Hostile()}))
    return folder / "hostile.pickle"


def json_file(text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "given.json").write_text(text)
        return folder / "given.json"

    return write


def other_store(**info: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        content = {name: (features(name), np.arange(5.0)) for name in ("q0", "q0_0")}
        write_store(folder / "other", content, {"encoder": ENCODER, "pca": PCA} | info)
        return folder / "other"

    return write


MANY = json.dumps({"q0": {f"v{n}": n / 5000 for n in range(5000)}})
USAGE, FAILED = ExitCode.USAGE, ExitCode.FAILED
OTHER_PCA = f"PCA was '{'1' * 64}', is '{'2' * 64}'"
REFUSED: list[tuple[str, Callable[[Path], Path], tuple[str, ...], ExitCode, str]] = [
    ("--annotations", hostile_pickle, ("-d", "FIVR-5K"), USAGE, "refused as an annotation (it asks for"),
    ("--annotations", broken_pickle, ("-d", "EVVE"), USAGE, "refused as an annotation"),
    ("--feature_path", other_store(encoder=ENCODER | {"dim": "x"}), (), FAILED, "was 'a dim', is 'x'"),
    ("--feature_path", other_store(pca=PCA | {"sha256": "2" * 64}), (), FAILED, OTHER_PCA),
    ("--feature_path", other_store(), ("-d", "EVVE", "--annotations="), FAILED, "none of the queries of EVVE"),
    ("--similarities", json_file('{"q0": {"q0_0": "0.5"}}'), (), USAGE, "'0.5' as the score of query 'q0'"),
    ("--similarities", json_file('{"q0": {"q0_0": NaN}}'), (), USAGE, "no valid JSON after query 'q0'"),
    ("--similarities", json_file('{"q0": {"q0_0": 1e999}}'), (), USAGE, "numeric (floating point) overflow"),
    ("--similarities", json_file('{"x": {"q0_0": 0.5}}'), (), FAILED, "none of the 7 queries of PAIRS has scores"),
    ("--similarities", json_file(MANY), ("--max-memory-gb", "1e-4"), USAGE, f"({len(MANY):,} bytes) holds"),
    ("--similarities", json_file('{"q0": {"q0_0": 1}}'), ("--show", "uAP"), USAGE, "--show uAP is none of"),
    ("--model_path", lambda folder: folder / "nothing", (), FAILED, "nothing"),
]


@pytest.mark.parametrize(("flag", "make", "more", "code", "said"), REFUSED)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(
    flag: str,
    make: Callable[[Path], Path],
    more: tuple[str, ...],
    code: ExitCode,
    said: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "--dataset": "PAIRS",
        "--annotations": str(world.folder / "pairs.csv"),
        "--feature_path": str(world.folder / "store"),
        "--model_path": str(world.folder / "model"),
        flag: str(make(tmp_path)),
    }
    if flag == "--similarities":
        del given["--feature_path"], given["--model_path"]
    words = [word for pair in given.items() for word in pair]
    ran = run_here(main, *words, "--output", tmp_path / "out", *more)
    assert (ran.code, ran.said) == (code, "")
    (line,) = [line for line in ran.log.splitlines() if "error:" in line]
    assert said in line and "Traceback" not in ran.log
    assert not (tmp_path / "out").exists() and not (tmp_path / "ran-hostile-code").exists()


@pytest.mark.parametrize("place", ["file/out.json", "file", "folder.json"])
def test_an_output_that_cannot_be_written_is_refused_before_any_work(world: World, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    ran = world.run("--output", tmp_path / place)
    assert ran.code == ExitCode.FAILED and ran.said == "" and "scoring" not in ran.log
    assert f"error: --output {tmp_path / 'file'}" in ran.log or f"error: --output {tmp_path / 'folder.json'}" in ran.log


@pytest.mark.parametrize("output", ["mine.json", "link.json", "other.json"])
def test_what_is_read_is_never_written_over(world: World, tmp_path: Path, output: str) -> None:
    """The similarities themselves, the same by another name, and a file that would come to lie beside the results."""
    scores, pairs = tmp_path / "mine.json", tmp_path / "other.queries.csv"
    scores.write_text('{"q0": {"q0_0": 0.5}}')
    (tmp_path / "link.json").symlink_to(scores)
    pairs.write_bytes((world.folder / "pairs.csv").read_bytes())
    before = {path: path.read_bytes() for path in (scores, pairs)}
    given = ("--similarities", scores, "--annotations", pairs, "--output", tmp_path / output)
    ran = run_here(main, "--dataset", "PAIRS", *given)
    assert ran.code == ExitCode.USAGE and "would be written over --" in ran.log and ran.said == ""
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot be written to" in world.run("--output", tmp_path / "closed" / "out").log
