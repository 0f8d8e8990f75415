"""Set-up: recognising what is there, and saying what is missing."""

from __future__ import annotations

import fcntl
import os
import platform
import runpy
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from reelkin.launch import bootstrap

ROOT = Path(bootstrap.ROOT)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks like a clone, with a tiny real .venv, for bootstrap to look at."""
    for name in bootstrap.INPUTS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    venv.create(tmp_path / ".venv", with_pip=False)
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(bootstrap, "STAMP", tmp_path / ".venv" / "reelkin-setup.json")
    monkeypatch.setattr(bootstrap, "KEPT_OPTIONS", tmp_path / ".venv" / "reelkin-options.json")
    for name in bootstrap.OPTIONS:
        monkeypatch.setenv(name, "")
    return tmp_path


def whole(clone: Path) -> dict:
    """What a probe of a finished .venv finds."""
    versions = {"torch": "2.13.0", "torchvision": "0.28.0", "horovod": "0.28.1", "faiss-cpu": "1", "faiss-gpu": None}
    versions[bootstrap.DALI] = "2.4.0"
    return {"python": [3, 11, 7], "missing": [], "root": str(clone / "__init__.py"), **versions}


def test_a_finished_setup_is_recognised(clone: Path) -> None:
    bootstrap.write_stamp("key", whole(clone), 1.0)
    assert bootstrap.is_finished("key", whole(clone))


@pytest.mark.parametrize(
    "change",
    [
        {"missing": ["faiss"]},
        {"torch": "2.12.0"},  # replaced by hand: Horovod's wheel no longer fits
        {"horovod": None},
        {bootstrap.DALI: None},
        {"root": "/elsewhere/__init__.py"},
        {"python": [3, 12, 1]},
    ],
    ids=str,
)
def test_a_setup_that_changed_since_is_not(clone: Path, change: dict) -> None:
    bootstrap.write_stamp("key", whole(clone), 1.0)
    assert not bootstrap.is_finished("key", whole(clone) | change)
    assert not bootstrap.is_finished("another key", whole(clone))


def test_an_interrupted_setup_is_not(clone: Path) -> None:
    assert not bootstrap.is_finished("key", whole(clone))
    bootstrap.STAMP.write_text('{"key": "ke')
    assert not bootstrap.is_finished("key", whole(clone))


@pytest.mark.parametrize("name", bootstrap.INPUTS)
def test_the_key_changes_with_each_input(clone: Path, name: str) -> None:
    before = bootstrap.setup_key(False)
    assert bootstrap.setup_key(False) == before
    (clone / name).write_text((clone / name).read_text() + "\n# changed\n")
    assert bootstrap.setup_key(False) != before


def test_the_key_changes_with_options_and_tools(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bootstrap.setup_key(False)
    assert bootstrap.setup_key(True) != before
    monkeypatch.setenv("REELKIN_MPI", "0")
    assert bootstrap.setup_key(False) != before
    monkeypatch.delenv("REELKIN_MPI")
    tools = clone / "tools"
    tools.mkdir()
    for tool in ("c++", "g++", "mpicxx", "mpirun"):
        (tools / tool).write_text("#!/bin/sh\n")
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with_tools = bootstrap.setup_key(False)
    (tools / "g++").unlink()
    assert bootstrap.setup_key(False) != with_tools


def test_a_venv_is_probed_without_importing_anything_heavy(clone: Path) -> None:
    started = time.monotonic()
    found = bootstrap.probe_venv()
    assert time.monotonic() - started < 5
    assert found is not None
    assert found["python"] == list(sys.version_info[:3])
    assert "torch" in found["missing"] and found["torch"] is None


def removed(monkeypatch: pytest.MonkeyPatch, found: dict, *, gpu: bool) -> set[str]:
    """What set-up uninstalls before it installs."""
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(bootstrap, "pip", lambda *words: calls.append(words))
    bootstrap.remove_what_is_in_the_way(found, gpu)
    return {word for words in calls for word in words[2:]}


def test_a_package_whose_files_are_gone_is_found_and_installed_anew(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = next((clone / ".venv" / "lib").glob("python3*/site-packages"))
    for name in ("torch", "faiss_cpu"):
        (site / f"{name}-9.0.dist-info").mkdir()
        (site / f"{name}-9.0.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.0\n"
        )
    found = bootstrap.probe_venv()
    assert found is not None and found["damaged"] == ["torch"] and found["torch"] == "9.0"
    assert removed(monkeypatch, found, gpu=False) == {"torch", "faiss-cpu"}
    assert found["torch"] is None


def test_only_one_faiss_stays(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = whole(clone) | {"damaged": []}
    assert removed(monkeypatch, found, gpu=False) == set()
    assert removed(monkeypatch, found, gpu=True) == {"faiss-cpu", "faiss-gpu"}
    both = found | {"faiss-gpu": "1"}
    assert removed(monkeypatch, both, gpu=False) == {"faiss-gpu", "faiss-cpu"}


def test_a_venv_whose_python_is_gone_counts_as_none(clone: Path) -> None:
    bootstrap.PYTHON.unlink()
    assert bootstrap.probe_venv() is None
    bootstrap.PYTHON.symlink_to("/nonexistent/python3")
    assert bootstrap.probe_venv() is None


def test_a_broken_venv_is_made_anew(clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    bootstrap.PYTHON.unlink()
    (clone / ".venv" / "leftover").touch()
    bootstrap.make_venv()
    assert bootstrap.version_of(str(bootstrap.PYTHON)) == sys.version_info[:2]
    assert not (clone / ".venv" / "leftover").exists()
    assert "making it anew" in capfd.readouterr().out


def test_without_ensurepip_the_package_to_install_is_named(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # An interpreter as Debian splits it: everything works but `import ensurepip`.
    split = clone / "python3"
    split.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*|*virtualenv*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    split.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(split))
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(bootstrap.SetupError, match=rf"apt-get install python3\.{sys.version_info[1]}-venv"):
        bootstrap.make_venv()


def test_an_unfit_python_looks_for_a_fit_one_on_path(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    tools = clone / "tools"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(bootstrap.SetupError, match=r"is 3\.9 and PATH holds no fitting one"):
        bootstrap.choose_python()
    # A shim that exists and does not run, as pyenv leaves them, is passed over.
    for name, body in (("python3.12", "exit 127"), ("python3.11", "echo 3 11")):
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    assert bootstrap.choose_python() == str(tools / "python3.11")


def test_constraints_follow_a_torch_that_is_kept(tmp_path: Path) -> None:
    lines = bootstrap.constraints_for("2.12.1+cpu", tmp_path).read_text().splitlines()
    assert "torch==2.12.1" in lines and "torchvision==0.27.0" in lines
    assert len([line for line in lines if line.startswith(("torch==", "torchvision=="))]) == 2
    text = bootstrap.constraints_for(None, tmp_path).read_text()
    assert f"torch=={bootstrap.TORCH}" in text.splitlines()


def test_the_pins_agree_with_one_another() -> None:
    pins = dict(line.split("==") for line in bootstrap.CONSTRAINTS.read_text().splitlines() if "==" in line)
    assert pins["torch"] == bootstrap.TORCH
    assert pins["torchvision"] == bootstrap.TORCHVISION_FOR[bootstrap.minor_of(bootstrap.TORCH)]


def test_every_requirement_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pins = dict(line.split("==") for line in bootstrap.CONSTRAINTS.read_text().splitlines() if "==" in line)
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    packaging = runpy.run_path("setup.py")
    lists = [packaging["RUNTIME"], *(names for extra, names in packaging["EXTRAS"].items() if extra != "horovod")]
    wanted = [Requirement(text) for names in lists for text in names]
    assert len(wanted) > 15
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_a_second_setup_waits_for_the_first(clone: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'launch')!r}); import bootstrap; from pathlib import Path\n"
    script += f"bootstrap.ROOT = Path({str(clone)!r}); bootstrap.set_up = lambda: print('ran', flush=True)\n"
    script += "sys.exit(bootstrap.main())"
    folder = os.open(clone, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    second = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert second.stdout is not None
    assert "waiting for it" in second.stdout.readline()
    assert second.poll() is None
    os.close(folder)
    assert second.communicate(timeout=30)[0] == "ran\n" and second.returncode == 0


def test_too_little_disk_is_said_before_anything_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(bootstrap.SetupError, match="GB free; about"):
        bootstrap.check_space(1 << 60)


def test_an_option_holds_until_it_is_set_again(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # `REELKIN_HOROVOD=0 make setup`, then a plain `make demo`.
    bootstrap.KEPT_OPTIONS.write_text('{"REELKIN_HOROVOD": "0", "REELKIN_MPI": "1"}')
    monkeypatch.setenv("REELKIN_MPI", "auto")
    bootstrap.recall_options()
    assert {name: os.environ[name] for name in bootstrap.OPTIONS} == {
        "REELKIN_HOROVOD": "0",
        "REELKIN_MPI": "",
        "REELKIN_NCCL": "",
        "REELKIN_DALI": "",
        "REELKIN_GPU": "",
    }


def test_dali_is_installed_where_it_is_made_unless_it_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert bootstrap.wants_dali("") and bootstrap.wants_dali("1") and not bootstrap.wants_dali("0")
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not bootstrap.wants_dali("") and bootstrap.wants_dali("1")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not bootstrap.wants_dali("")


def test_dali_that_cannot_be_installed_is_said_in_a_line_and_stops_nothing(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REELKIN_DALI", "1")
    bootstrap.install_dali()  # this .venv has no pip, so it fails
    said = capfd.readouterr()
    assert "No module named pip" in said.err
    (line,) = [line for line in said.out.splitlines() if "goes on without DALI" in line]
    assert f"-c {bootstrap.CONSTRAINTS} {bootstrap.DALI}" in line and "=0 stops trying" in line
    monkeypatch.setattr(bootstrap, "DALI_FREE_BYTES", 1 << 60)
    bootstrap.install_dali()
    assert "GB free; about" in capfd.readouterr().out


def test_dali_that_is_left_out_is_not_tried(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REELKIN_DALI", "0")
    bootstrap.install_dali()
    assert capfd.readouterr() == ("", "")


def test_the_extras_gpu_and_dali_ask_for_the_same_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    extras = runpy.run_path("setup.py")["EXTRAS"]
    (requirement,) = map(Requirement, extras["dali"])
    assert extras["dali"][0] in extras["gpu"] and requirement.name == bootstrap.DALI
    assert requirement.marker is not None
    for machine in ("x86_64", "aarch64", "riscv64"):
        made = requirement.marker.evaluate({"sys_platform": "linux", "platform_machine": machine})
        assert made == (machine in bootstrap.DALI_MACHINES)


def test_a_second_run_takes_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in bootstrap.OPTIONS:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    bootstrap.recall_options()
    if not bootstrap.is_finished(bootstrap.setup_key(bootstrap.has_gpu()), bootstrap.probe_venv()):
        pytest.skip("this environment was not made by make setup, or not by this version of it")
    started = time.monotonic()
    done = subprocess.run(["make", "setup"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reelkin[" not in done.stdout  # nothing was installed again
    assert time.monotonic() - started < 10
