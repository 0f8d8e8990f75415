"""The wheel: holds what it should, leaves out what it should, and imports from a fresh environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import reelkin

ROOT = Path(reelkin.__file__).resolve().parent
STAGES = ("core", "shards", "extract", "train", "search", "evaluate", "launch")
# What an application's data may be; everything else beside the code belongs to the repository only.
DATA = (".cmake", ".j2", ".xz", ".md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # From a copy: setuptools leaves its work in the source folder, and would find stale files there next time.
    copy = tmp_path_factory.mktemp("source") / "reelkin"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "demo-run", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), "."]
    subprocess.run(command, cwd=copy, check=True, timeout=300)
    (built,) = folder.glob("reelkin-*.whl")
    return built


def test_it_holds_every_module_and_its_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        f"reelkin/{path.relative_to(ROOT)}"
        for stage in STAGES
        for path in (ROOT / stage).rglob("*")
        if path.suffix in (".py", *DATA)
    }
    expected -= {"reelkin/launch/bootstrap.py"}
    held = {name for name in names if name.startswith("reelkin/")}
    assert held == expected | {"reelkin/__init__.py"}
    assert "reelkin/launch/hvd17.cmake" in held and "reelkin/setup.py" not in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"reelkin"}
    assert any(name.endswith("LICENSE") for name in names)


def test_it_imports_from_a_fresh_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh" / "bin" / "python"
    target = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, timeout=300)
    here = next(path for path in sys.path if path.endswith("site-packages"))
    code = (
        "import importlib, pkgutil, reelkin\n"
        f"assert reelkin.__file__.startswith({target!r}), reelkin.__file__\n"
        "names = [m.name for m in pkgutil.walk_packages(reelkin.__path__, 'reelkin.')]\n"
        "assert len(names) > 20, names\n"
        "for name in names:\n"
        "    importlib.import_module(name) if 'horovod_engine' not in name else None\n"
        "print('all', len(names))\n"
    )
    # The libraries come from the environment of this test; its own editable reelkin is not seen through PYTHONPATH.
    done = subprocess.run(
        [str(python), "-c", code],
        env={"PYTHONPATH": here, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.startswith("all"), done.stdout + done.stderr
    program = tmp_path / "fresh" / "bin" / "reelkin"
    env = {"PYTHONPATH": here, "PATH": "/usr/bin:/bin"}
    shown = subprocess.run([str(program), "--help"], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "evaluate" in shown.stdout
