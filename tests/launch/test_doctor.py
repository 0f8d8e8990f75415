"""reelkin doctor: what it finds, and what it says about what is broken."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from reelkin.launch import doctor, run_ranks
from reelkin.launch.doctor import AGREE, BAD, NOTE, OK, Finding


@pytest.fixture
def shadows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose modules come before the installed ones in every process that the doctor starts."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    "check",
    [doctor.check_python, doctor.check_pyav, doctor.check_faiss, doctor.check_formats],
    ids=lambda c: c.__name__,
)
def test_what_the_tests_themselves_need_is_found(check) -> None:  # type: ignore[no-untyped-def]
    finding = check()
    assert finding.state == OK and any(letter.isdigit() for letter in finding.found)


def test_pyav_without_a_codec_is_said(shadows: Path) -> None:
    (shadows / "av.py").write_text(
        "__version__ = '1'\nclass codec:\n  @staticmethod\n  def Codec(name, mode):\n"
        "    if name == 'av1': raise ValueError(name)\n    return True\n"
    )
    finding = doctor.check_pyav()
    assert finding.state == NOTE and finding.found.endswith("without av1") and finding.fix


def test_a_library_that_kills_its_process_does_not_kill_the_doctor(shadows: Path) -> None:
    (shadows / "faiss.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    finding = doctor.check_faiss()
    assert finding.state == BAD and "-11" in finding.found


def test_a_library_that_does_not_import_is_missing(shadows: Path) -> None:
    (shadows / "av.py").write_text("raise ImportError('libfoo.so.1 is gone')\n")
    finding = doctor.check_pyav()
    assert finding.state == BAD and "libfoo.so.1 is gone" in finding.found and finding.fix


def test_dali_that_is_missing_or_broken_is_said_with_its_fix(
    shadows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    (shadows / "nvidia").mkdir()
    (shadows / "nvidia" / "__init__.py").touch()  # covers the real one
    finding = doctor.check_dali()
    assert finding.state == NOTE and "not installed" in finding.found and "make setup" in finding.fix
    (shadows / "nvidia" / "dali.py").write_text("raise OSError('libdali.so: cannot open shared object file')\n")
    finding = doctor.check_dali()
    assert finding.state == NOTE and "libdali.so" in finding.found and finding.fix
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert doctor.check_dali() == Finding("DALI", OK, "none is made for this platform: PyAV decodes")


def test_both_faiss_distributions_are_an_error(shadows: Path) -> None:
    for name in ("faiss_gpu", "faiss_cpu"):
        folder = shadows / f"{name}-9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9\n")
    finding = doctor.check_faiss()
    assert finding.state == BAD and "pip uninstall -y faiss-cpu faiss-gpu" in finding.fix


def test_a_reason_recorded_by_setup_is_shown_with_its_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state.json"
    state.write_text(json.dumps({"ok": False, "reason": "building it needs g++", "fix": "apt-get install g++"}))
    monkeypatch.setattr(run_ranks, "HOROVOD_STATE", state)
    finding = doctor.check_horovod()
    assert finding.state == NOTE and "needs g++" in finding.found and "apt-get install g++" in finding.fix
    assert doctor.check_launcher("horovod").state == NOTE


def findings(**states: str) -> list[Finding]:
    lines = {"torch": OK, "faiss": OK, "Horovod": OK, "2 ranks, horovodrun": OK, "2 ranks, torchrun": OK}
    lines |= {name.replace("_", " "): state for name, state in states.items()}
    return [Finding(name, state, AGREE if state == OK else "why") for name, state in lines.items()]


def test_one_launcher_is_enough() -> None:
    assert doctor.can_work(findings())
    assert doctor.can_work(findings(**{"2 ranks, horovodrun": BAD, "Horovod": NOTE}))
    assert doctor.can_work(findings(**{"2 ranks, torchrun": BAD}))
    assert not doctor.can_work(findings(**{"2 ranks, torchrun": BAD, "2 ranks, horovodrun": NOTE}))
    assert not doctor.can_work(findings(torch=BAD))
    assert not doctor.can_work(findings(faiss=BAD))


def test_a_launcher_that_was_not_tried_is_not_counted() -> None:
    tried = [Finding("2 ranks, torchrun", BAD, "why"), Finding("2 ranks, MPI", OK, "Horovod is built without MPI")]
    assert not doctor.can_work(tried)


def test_exit_code_and_json_follow_the_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda: findings(faiss=BAD))
    assert doctor.main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert {"name": "faiss", "state": "missing", "found": "why", "fix": ""} in told["findings"]
    monkeypatch.setattr(doctor, "examine", findings)
    assert doctor.main([]) == 0
    assert "torch" in capsys.readouterr().out


@pytest.mark.slow
def test_the_doctor_finds_this_machine_fit() -> None:
    command = [sys.executable, "-P", "-m", "reelkin.launch.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    told = json.loads(done.stdout)
    assert done.returncode == 0 and told["ok"], told
    assert {one["name"] for one in told["findings"]} >= {"torch", "torchvision", "Horovod", "PyAV", "faiss", "disk"}
    assert not [one for one in told["findings"] if one["state"] != OK and not one["fix"]]
