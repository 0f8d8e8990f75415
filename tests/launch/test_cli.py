"""The reelkin command."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.launch import cli


def test_help_lists_every_verb_and_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb in (
        "build",
        "verify",
        "extract",
        "fit-pca",
        "train",
        "search",
        "evaluate",
        "edits",
        "scenes",
        "doctor",
        "demo",
        "run",
    ):
        assert f"\n  {verb} " in text
    assert "Example: reelkin " in text


def test_no_verb_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert "reelkin VERB" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("evalute", "evaluate"), ("fitpca", "fit-pca")])
def test_an_unknown_verb_is_answered_with_the_nearest(
    typed: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([typed]) == 2
    assert meant in capsys.readouterr().err


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_has_its_module(verb: str) -> None:
    assert importlib.util.find_spec(cli.VERBS[verb][0]) is not None


def test_exit_code_of_the_stage_is_handed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "stage_for_test.py").write_text("def main(argv):\n    return int(argv[0])\n")
    (tmp_path / "leaving_stage_for_test.py").write_text("def main(argv):\n    raise SystemExit(2)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(cli.VERBS, "one", ("stage_for_test", ""))
    monkeypatch.setitem(cli.VERBS, "two", ("leaving_stage_for_test", ""))
    assert cli.main(["one", "75"]) == 75
    assert cli.main(["two"]) == 2


def test_help_loads_no_stage() -> None:
    code = (
        "import sys; from reelkin.launch.cli import main; main(['--help']);"
        "print(sorted({'torch', 'av', 'faiss', 'torchvision', 'horovod'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_installed_command_answers() -> None:
    program = Path(sys.executable).with_name("reelkin")
    done = subprocess.run([str(program), "nonsense"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "there is no verb 'nonsense'" in done.stderr
